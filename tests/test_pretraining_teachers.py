"""Teachers: several processes of one run ask for the same embeddings, and each of these is computed once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ears import Ear

from featurepipe.pretraining import teachers
from featurepipe.stores import Store


@pytest.fixture
def ask(small, planned, tmp_path):
    """A teacher is asked for two views of four of six pictures."""
    pending, teacher = planned(6), small()

    def make():
        rows = np.array([0, 2, 3, 5])
        return teachers.teach(pending, rows, teacher, tmp_path / "teacher.store", "standard", 0, 2, 1, Ear())

    return make


def test_processes_that_come_at_once_wait_for_the_first(ask, monkeypatch):
    fill, made = teachers.extraction.fill, []
    monkeypatch.setattr(
        teachers.extraction, "fill", lambda plan, *a, **k: made.append(len(plan)) or fill(plan, *a, **k)
    )
    with ThreadPoolExecutor(3) as pool:
        one, *others = [future.result() for future in [pool.submit(ask) for _ in range(3)]]
    assert made == [4, 4]  # a view each
    assert one.shape[:2] == (6, 2)
    assert one[[0, 2, 3, 5]].any((1, 2)).all()
    assert not one[[1, 4]].any()
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_what_is_there_is_read_while_another_process_holds_the_store(ask, tmp_path):
    first = ask()
    with Store(tmp_path / "teacher.store").lock():
        np.testing.assert_array_equal(ask(), first)
