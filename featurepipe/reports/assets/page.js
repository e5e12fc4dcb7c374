"use strict";
(() => {
  // What names may hold that would steer the text around them; as in featurepipe/characters.py.
  const STEERING = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb]/g;
  const UNKNOWN = 65535;
  const SHOWN = 60; // cards at once
  const COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#8866cc",
    "#999933", "#dd4499", "#8a6642"];
  const OTHER = "#999999";

  const hex = (code) => code < 256 ? "\\x" + code.toString(16).padStart(2, "0") : "\\u" + code.toString(16).padStart(4, "0");
  const safe = (text) => text.replace(STEERING, (found) => hex(found.charCodeAt(0)));
  const count = (number) => number.toLocaleString("en");

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  // -- tables that sort and filter -------------------------------------------------------------------------------

  function valueOf(row, column) {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(number) || !/^[-+\d.]/.test(text) ? text : number;
  }

  function compare(one, other) {
    if (typeof one === typeof other) return typeof one === "number" ? one - other : one.localeCompare(other);
    return typeof one === "number" ? -1 : 1;
  }

  const plain = (text) => text.replace(/[\s,%]/g, "");

  function matches(row, wanted) { // a figure only as a whole, as the figures hold every digit
    return [...row.cells].some((cell, column) => {
      const text = cell.textContent.toLowerCase();
      return column && /^[-+\d.,%–\s]+$/.test(text) ? plain(text) === plain(wanted) : text.includes(wanted);
    });
  }

  function sortBy(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const names = [...body.rows].every((row) => typeof valueOf(row, column) === "string");
    const rows = [...body.rows].map((row) => [names ? row.cells[column].textContent : valueOf(row, column), row]);
    rows.sort((a, b) => (rising ? 1 : -1) * compare(a[0], b[0]));
    body.append(...rows.map((pair) => pair[1]));
  }

  function enliven(table) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      if (!cell.textContent) return;
      const button = make("button", {type: "button", onclick: () => sortBy(table, column)}, cell.textContent);
      cell.replaceChildren(button);
    });
    const total = table.tBodies[0].rows.length;
    if (total > 8) {
      const left = make("span", {role: "status"});
      const filter = make("input", {type: "search", placeholder: "filter", "aria-label": "Filter the rows", oninput: () => {
        const wanted = filter.value.toLowerCase();
        let seen = 0;
        for (const row of table.tBodies[0].rows) {
          row.hidden = wanted !== "" && !matches(row, wanted);
          seen += row.hidden ? 0 : 1;
        }
        left.textContent = wanted ? `${count(seen)} of ${count(total)}` : "";
      }});
      table.parentElement.before(make("div", {class: "tools"}, filter, left));
    }
  }

  // -- the samples -----------------------------------------------------------------------------------------------

  function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Uint16Array(bytes.buffer);
  }

  function read(element) {
    const data = JSON.parse(element.textContent);
    for (const key of ["shared", "x", "y", "truth", "guess", "sure", "split"]) data[key] = unpacked(data[key]);
    let before = "";
    data.ids = data.rest.map((rest, row) => { before = before.slice(0, data.shared[row]) + rest; return before; });
    return data;
  }

  function lookOf(data, row) {
    const there = document.querySelector(`.sheet [data-row="${row}"]`);
    if (there) return [...there.children].filter((child) => child.tagName !== "FIGCAPTION").map((child) => child.cloneNode(true));
    const made = [], name = safe(data.ids[row]);
    if (data.pictures[row]) made.push(make("img", {src: "data:image/jpeg;base64," + data.pictures[row], alt: name, title: name}));
    if (data.words[row]) made.push(make("blockquote", {dir: "auto"}, safe(data.words[row])));
    if (data.sounds[row]) made.push(make("audio", {controls: "", preload: "none", src: "data:audio/mpeg;base64," + data.sounds[row], "aria-label": name}));
    return made.length ? made : [make("div", {class: "none"}, "no picture")];
  }

  function card(data, row) {
    const truth = data.truth[row], guess = data.guess[row];
    const kind = truth === UNKNOWN ? "" : truth === guess ? " right" : " wrong";
    const share = data.sure[row] / UNKNOWN;
    const sure = (share >= 0.9995 && share < 1 ? "> 99.9" : (100 * share).toFixed(1)) + "\u00a0%";
    const said = make("span", {}, make("bdi", {class: "said"}, safe(data.labels[guess])), " " + sure);
    const caption = make("figcaption", {}, said);
    if (kind === " wrong") caption.append(make("span", {}, "label ", make("bdi", {}, safe(data.labels[truth]))));
    const parts = data.ids[row].split("/").flatMap((part, place) => [place ? "/" : "", make("bdi", {}, safe(part))]);
    caption.append(make("span", {class: "path"}, ...parts));
    return make("figure", {class: "card" + kind}, ...lookOf(data, row), caption);
  }

  // -- the training samples nearest to one -----------------------------------------------------------------------

  function alikeOf(data, row) {
    const found = data.alike[row] || [];
    const items = [];
    for (let at = 0; at < found.length; at += 2) {
      const other = found[at], label = data.truth[other];
      const name = label === UNKNOWN ? "no label" : safe(data.labels[label]);
      const cosine = make("span", {}, make("bdi", {class: "said"}, name), " " + found[at + 1].toFixed(2));
      items.push(make("li", {}, ...lookOf(data, other), cosine));
    }
    return items;
  }

  function enlivenAlike(data, details, row) {
    details.addEventListener("toggle", () => {
      if (details.open) details.querySelector("ol").replaceChildren(...alikeOf(data, row));
    });
  }

  function withAlike(data, row) {
    const made = card(data, row);
    if (!data.alike[row]) return made;
    const details = make("details", {class: "alike"}, make("summary", {}, "more like this"), make("ol"));
    enlivenAlike(data, details, row);
    made.querySelector("figcaption").append(details);
    return made;
  }

  function cards(data, rows) {
    const first = rows.slice(0, SHOWN).map((row) => withAlike(data, row));
    const more = rows.length - first.length;
    const sheet = make("div", {class: `sheet ${data.medium}`}, ...first);
    return more > 0 ? [sheet, make("small", {}, `and ${count(more)} more`)] : [sheet];
  }

  // -- the cells of the confusion matrix -------------------------------------------------------------------------

  function openCell(data, truth, guess, focus) {
    const rows = [];
    for (let row = 0; row < data.reported; row++) if (data.truth[row] === truth && data.guess[row] === guess) rows.push(row);
    rows.sort((a, b) => data.sure[b] - data.sure[a]);
    const names = [truth, guess].map((label) => safe(data.labels[label]));
    const what = truth === guess ? `“${names[0]}”, classified correctly` : `“${names[0]}” taken for “${names[1]}”`;
    const drawer = document.getElementById("cell");
    const title = make("h3", {}, `${what}: ${count(rows.length)}`);
    drawer.replaceChildren(title, ...cards(data, rows));
    drawer.scrollIntoView({block: "nearest"});
    if (focus) drawer.focus({preventScroll: true});
  }

  function enlivenCells(data) {
    const cells = [...document.querySelectorAll("svg [data-cell]")];
    const placed = cells.map((cell) => [cell, +cell.getAttribute("x"), +cell.getAttribute("y")]);
    for (const cell of document.querySelectorAll("[data-cell]")) {
      const [truth, guess] = cell.getAttribute("data-cell").split(",").map(Number);
      cell.addEventListener("click", () => openCell(data, truth, guess, false));
      if (cell.tagName === "BUTTON") continue;
      cell.setAttribute("role", "button");
      cell.setAttribute("tabindex", "-1");
      cell.setAttribute("aria-label", cell.textContent);
      cell.addEventListener("keydown", (event) => {
        const steps = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key];
        if (event.key === "Enter" || event.key === " ") openCell(data, truth, guess, true);
        else if (steps) step(cell, placed, steps);
        else return;
        event.preventDefault();
      });
    }
    if (cells.length) cells[0].setAttribute("tabindex", "0");
  }

  function step(cell, placed, [right, down]) {
    const [, x, y] = placed.find((one) => one[0] === cell);
    let best = null, least = Infinity;
    for (const [other, u, v] of placed) {
      const along = right * (u - x) + down * (v - y), across = Math.abs(down * (u - x)) + Math.abs(right * (v - y));
      if (along > 0 && along + 3 * across < least) { best = other; least = along + 3 * across; }
    }
    if (!best) return;
    cell.setAttribute("tabindex", "-1");
    best.setAttribute("tabindex", "0");
    best.focus();
  }

  // -- the map ---------------------------------------------------------------------------------------------------

  const MODES = {
    label: (data) => [data.truth, data.labels],
    prediction: (data) => [data.guess, data.labels],
    split: (data) => [data.split, data.splits],
    "right or wrong": (data) => [
      data.truth.map((truth, row) => row >= data.reported ? UNKNOWN : truth === data.guess[row] ? 0 : 1), ["right", "wrong"]],
  };

  class Plane {
    constructor(place, data) {
      this.data = data;
      this.n = data.ids.length;
      this.picked = new Set();
      this.only = null;
      this.at = -1;
      this.path = null;
      this.paper = make("canvas", {"aria-hidden": "true"}); // the dots; above it what changes with the pointer
      this.canvas = make("canvas", {tabindex: "0", role: "application",
        "aria-label": "Map of the samples. Arrow keys go from dot to dot, space selects, escape clears."});
      this.tip = make("figure", {class: "card tip", hidden: ""});
      this.plane = make("div", {class: "plane"}, this.paper, this.canvas, this.tip);
      this.legend = make("div", {class: "legend", role: "group", "aria-label": "Colours"});
      this.picks = make("div", {role: "region", "aria-live": "polite", "aria-label": "Selected samples"});
      this.select = make("select", {"aria-label": "Colour of the dots", onchange: () => this.colour()},
        ...Object.keys(MODES).map((mode) => make("option", {}, mode)));
      this.lasso = make("button", {type: "button", class: "touch", "aria-pressed": "false", onclick: () => {
        const on = this.plane.classList.toggle("drawing");
        this.lasso.setAttribute("aria-pressed", on);
      }}, "Draw by touch");
      place.replaceChildren(make("div", {class: "tools"}, make("label", {}, "colour by ", this.select), this.lasso),
        this.plane, this.legend, this.picks);
      this.listen();
      this.colour();
    }

    listen() {
      const {canvas} = this;
      canvas.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "mouse" || this.plane.classList.contains("drawing")) {
          canvas.setPointerCapture(event.pointerId);
          this.path = [this.where(event)];
        } else this.point(this.nearest(...this.where(event)));
      });
      canvas.addEventListener("pointermove", (event) => {
        const [x, y] = this.where(event);
        if (this.path) { this.path.push([x, y]); this.mark(); } else this.point(this.nearest(x, y));
      });
      canvas.addEventListener("pointerup", () => {
        const path = this.path;
        this.path = null;
        if (path && path.length > 4) this.choose(this.inside(path));
        else if (path) this.toggle(this.nearest(...path[0]));
      });
      canvas.addEventListener("pointercancel", () => { this.path = null; this.mark(); });
      canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) this.point(-1); });
      canvas.addEventListener("blur", () => this.point(-1));
      canvas.addEventListener("keydown", (event) => {
        const steps = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key];
        if (steps) this.point(this.next(steps));
        else if (event.key === " " || event.key === "Enter") this.toggle(this.at);
        else if (event.key === "Escape") this.choose([]);
        else return;
        event.preventDefault();
      });
      new ResizeObserver(() => this.layOut()).observe(this.plane);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    }

    where(event) {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }

    // Where each dot lies, in pixels.
    layOut() {
      const {x, y} = this.data, edge = 12, width = this.canvas.clientWidth, height = this.canvas.clientHeight;
      const across = (width - 2 * edge) / x.reduce((a, b) => Math.max(a, b), 1);
      const up = (height - 2 * edge) / y.reduce((a, b) => Math.max(a, b), 1);
      this.px = Float32Array.from(x, (one) => edge + across * one);
      this.py = Float32Array.from(y, (one) => height - edge - up * one);
      this.draw();
    }

    seen(row) { return this.only === null || this.values[row] === this.only; }

    nearest(x, y, reach = 14) {
      const {px, py} = this;
      let best = -1, least = reach * reach;
      for (let row = 0; row < this.n; row++) {
        const right = px[row] - x, down = py[row] - y, far = right * right + down * down;
        if (far < least && this.seen(row)) { best = row; least = far; }
      }
      return best;
    }

    next([right, down]) {
      if (this.at < 0) return this.nearest(this.canvas.clientWidth / 2, this.canvas.clientHeight / 2, 1e5);
      const x = this.px[this.at], y = this.py[this.at];
      let best = this.at, least = Infinity;
      for (let row = 0; row < this.n; row++) {
        if (row === this.at || !this.seen(row)) continue;
        const u = this.px[row] - x, v = this.py[row] - y;
        const along = right * u + down * v, across = Math.abs(down * u) + Math.abs(right * v);
        if (along > 0.5 && along + 2 * across < least) { best = row; least = along + 2 * across; }
      }
      return best;
    }

    inside(path) {
      const found = [];
      for (let row = 0; row < this.n; row++) {
        if (!this.seen(row)) continue;
        const x = this.px[row], y = this.py[row];
        let odd = false;
        for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
          const [ax, ay] = path[i], [bx, by] = path[j];
          if ((ay > y) !== (by > y) && x < ax + (bx - ax) * (y - ay) / (by - ay)) odd = !odd;
        }
        if (odd) found.push(row);
      }
      return found;
    }

    point(row) {
      if (row === this.at) return;
      this.at = row;
      this.tip.hidden = row < 0;
      if (row >= 0) {
        const made = card(this.data, row);
        this.tip.className = `${made.className} tip ${this.data.medium}`;
        this.tip.replaceChildren(...made.children);
        const x = this.px[row], y = this.py[row], half = this.plane.clientWidth / 2;
        this.tip.style.left = x < half ? `${x + 14}px` : "";
        this.tip.style.right = x < half ? "" : `${this.plane.clientWidth - x + 14}px`;
        this.tip.style.top = y < this.plane.clientHeight / 2 ? `${Math.max(y - 10, 0)}px` : "";
        this.tip.style.bottom = y < this.plane.clientHeight / 2 ? "" : `${this.plane.clientHeight - y - 10}px`;
      }
      this.mark();
    }

    toggle(row) {
      if (row < 0) return this.choose([]);
      const rows = new Set(this.picked);
      if (!rows.delete(row)) rows.add(row);
      return this.choose([...rows]);
    }

    choose(rows) {
      this.picked = new Set(rows);
      const save = make("button", {type: "button", onclick: () => this.save(rows)}, "Save their paths as CSV");
      const clear = make("button", {type: "button", onclick: () => this.choose([])}, "Clear");
      const title = make("p", {}, `${count(rows.length)} selected `, save, " ", clear);
      this.picks.replaceChildren(...(rows.length ? [title, ...cards(this.data, rows)] : []));
      this.mark();
    }

    save(rows) {
      const {data} = this;
      const cell = (text) => /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
      const name = (names, value) => value === UNKNOWN ? "" : names[value];
      const lines = rows.map((row) => [data.ids[row], name(data.labels, data.truth[row]), name(data.labels, data.guess[row]),
        (data.sure[row] / UNKNOWN).toFixed(4), name(data.splits, data.split[row])].map(cell).join(","));
      const text = ["path,label,prediction,confidence,split", ...lines].join("\r\n") + "\r\n";
      const address = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
      make("a", {href: address, download: "selection.csv"}).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    }

    colour() {
      [this.values, this.names] = MODES[this.select.value](this.data);
      this.only = null;
      const counts = new Map();
      for (const value of this.values) counts.set(value, (counts.get(value) || 0) + 1);
      const known = [...counts.keys()].filter((value) => value !== UNKNOWN);
      known.sort((a, b) => counts.get(b) - counts.get(a) || a - b);
      const coloured = known.slice(0, COLOURS.length).sort((a, b) => a - b);
      this.tones = new Map(coloured.map((value, place) => [value, COLOURS[place]]));
      if (this.select.value === "right or wrong") this.tones = new Map([[0, COLOURS[0]], [1, COLOURS[6]]].filter(([value]) => counts.has(value)));
      const keys = [...this.tones].map(([value, tone]) => {
        const dot = make("i");
        dot.style.background = tone;
        const key = make("button", {type: "button", "aria-pressed": "false", onclick: () => {
          this.only = this.only === value ? null : value;
          for (const one of this.legend.querySelectorAll("button")) one.setAttribute("aria-pressed", one === key ? String(this.only !== null) : "false");
          this.draw();
        }}, dot, make("bdi", {}, safe(this.names[value])), ` ${count(counts.get(value))}`);
        return key;
      });
      const others = this.n - [...this.tones.keys()].reduce((sum, value) => sum + counts.get(value), 0);
      const grey = make("i");
      grey.style.background = OTHER;
      this.legend.replaceChildren(...keys, ...(others ? [make("span", {}, grey, `others ${count(others)}`)] : []));
      this.draw();
    }

    // Once for each frame at most, however often it is asked for.
    draw() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => { this.waiting = false; this.paint(); this.mark(); });
    }

    pen(canvas) {
      const ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
      canvas.width = canvas.clientWidth * ratio;
      canvas.height = canvas.clientHeight * ratio;
      pen.scale(ratio, ratio);
      return pen;
    }

    paint() {
      if (!this.px) return;
      const pen = this.pen(this.paper), {px, py} = this;
      const size = this.n > 20000 ? 2 : this.n > 3000 ? 4 : 6, half = size / 2;
      pen.globalAlpha = 0.8;
      const groups = new Map([[OTHER, []], ...[...this.tones.values()].map((tone) => [tone, []])]);
      for (let row = 0; row < this.n; row++) if (this.seen(row)) groups.get(this.tones.get(this.values[row]) || OTHER).push(row);
      for (const [tone, rows] of groups) {
        pen.fillStyle = tone;
        for (const row of rows) pen.fillRect(px[row] - half, py[row] - half, size, size);
      }
    }

    mark() {
      if (!this.px) return;
      const pen = this.pen(this.canvas);
      pen.strokeStyle = getComputedStyle(document.body).color;
      for (const row of this.picked) this.ring(pen, row, 5);
      pen.lineWidth = 2;
      if (this.at >= 0) this.ring(pen, this.at, 7);
      if (!this.path) return;
      pen.setLineDash([4, 4]);
      pen.beginPath();
      for (const [x, y] of this.path) pen.lineTo(x, y);
      pen.closePath();
      pen.stroke();
    }

    ring(pen, row, radius) {
      pen.beginPath();
      pen.arc(this.px[row], this.py[row], radius, 0, 7);
      pen.stroke();
    }
  }

  document.documentElement.classList.add("js");
  document.querySelectorAll("table.sortable").forEach(enliven);
  addEventListener("beforeprint", () => document.querySelectorAll("details:not(.alike)").forEach((one) => { one.open = true; }));
  const found = document.getElementById("data");
  if (!found) return;
  const data = read(found);
  enlivenCells(data);
  for (const details of document.querySelectorAll(".alike")) enlivenAlike(data, details, details.getAttribute("data-of"));
  const place = document.getElementById("map");
  if (place) new Plane(place, data);
})();
