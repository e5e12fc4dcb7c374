"""A hub on this machine: as much of the Hugging Face hub's protocol as `push` and `pull` need."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Keeps ``server.repositories``: name → file → bytes; `server.refused` is a status that every request gets,
    and while it `breaks`, no large file can be sent.
    """

    def do_GET(self):
        owner, name, _, revision, file = [*self.path.lstrip("/").split("/", 4), "", "", ""][:5]
        files = self.server.repositories.get(f"{owner}/{name}")
        if self.server.refused:
            return self.answer(self.server.refused)
        if files is None:
            return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", commit_of(files)):
            return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        if file not in files:
            return self.answer(404, headers={"X-Error-Code": "EntryNotFound"})
        tag = hashlib.sha256(files[file]).hexdigest()
        return self.answer(200, files[file], {"ETag": f'"{tag}"', "X-Repo-Commit": commit_of(files)})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refused:
            return self.answer(self.server.refused)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            return self.json({"files": [self.mode(one["path"]) for one in json.loads(body)["files"]]})
        if self.path.endswith("/lfs/objects/batch"):
            return self.json({"objects": [self.place(one) for one in json.loads(body)["objects"]]})
        if "/branch/" in self.path:
            return self.json({})
        return self.commit(body)

    def do_PUT(self):
        if self.server.breaks:
            return self.answer(400)
        self.server.large[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        return self.answer(200)

    def create(self, said):
        name = f"{said['organization']}/{said['name']}"
        if name in self.server.repositories:
            return self.json({"url": f"{self.server.url}/{name}"}, 409)
        self.server.repositories[name], self.server.private[name] = {}, said.get("private", said.get("visibility"))
        return self.json({"url": f"{self.server.url}/{name}"})

    def mode(self, path):
        large = self.server.keeps_large and path.endswith(".safetensors")
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def place(self, one):
        return {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}

    def commit(self, body):
        files = self.server.repositories["/".join(self.path.split("/")[3:5])]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                self.server.messages.append(value["summary"])
        name = "/".join(self.path.split("/")[3:5])
        made = commit_of(files)
        self.json({"commitOid": made, "commitUrl": f"{self.server.url}/{name}/commit/{made}"})

    def json(self, said, code=200):
        self.answer(code, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def answer(self, code, data=b"", headers=()):
        self.send_response(code)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def commit_of(files):
    """The commit of what a repository holds."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def serving(*, keeps_large=False):
    """An empty hub; `keeps_large` sends model files apart, as git-lfs does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.private, server.large, server.messages = {}, {}, {}, []
    server.breaks = False
    server.refused, server.keeps_large, server.daemon_threads = None, keeps_large, False
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
