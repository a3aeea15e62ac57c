// Values under the pointer, zoom, and a switch for each series. The page is complete without it.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";

  const element = (name, attributes, parent) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  };

  const html = (name, text, parent) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };

  // Numbers for people.

  const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

  const scaled = (value, digits, units) => {
    if (value === 0) return "0";
    let unit = 0;
    while (unit < units.length - 1 && Number(value.toPrecision(digits)) >= 1000) {
      value /= 1000;
      unit += 1;
    }
    const whole = Math.max(1, Math.floor(Math.log10(Math.max(value, 1))) + 1);
    return trimmed(value.toFixed(Math.max(0, digits - whole))) + units[unit];
  };

  const show = {
    ns: (value) => scaled(value, 3, ["ns", "us", "ms", "s"]),
    us: (value) => scaled(value * 1000, 3, ["ns", "us", "ms", "s"]),
    s: (value) => trimmed(value.toFixed(2)) + "s",
    "per-s": (value) => scaled(value, 4, ["", "k", "M", "G", "T"]) + "/s",
    count: (value) => scaled(value, 4, ["", "k", "M", "G", "T"]),
    ratio: (value) => trimmed(value.toFixed(value < 0.1 ? 4 : 2)) + "x",
    nines: (value) =>
      trimmed((100 * (1 - 10 ** -value)).toFixed(Math.min(12, Math.ceil(Math.max(0, value))))) + "%",
  };

  // An axis, and the part of it that a zoom shows.
  class Axis {
    constructor(text) {
      const [kind, low, high, start, end, unit] = text.split(" ");
      this.log = kind === "log";
      [this.start, this.end] = [Number(start), Number(end)];
      this.unit = unit;
      this.full = [this.bend(Number(low)), this.bend(Number(high))];
      this.view = [...this.full];
    }
    bend(value) {
      return this.log ? Math.log10(Math.max(value, 1e-30)) : value;
    }
    show(value) {
      return show[this.unit](value);
    }
    // From a value to its place, and from a place to the bent value.
    at(value) {
      const [from, to] = this.view;
      return this.start + ((this.bend(value) - from) / (to - from)) * (this.end - this.start);
    }
    bentAt(place) {
      const [from, to] = this.view;
      return from + ((place - this.start) / (this.end - this.start)) * (to - from);
    }
    look(from, to) {
      const [least, most] = this.full;
      const width = Math.min(Math.max(to - from, (most - least) / 2000), most - least);
      const begin = Math.min(Math.max(from, least), most - width);
      this.view = [begin, begin + width];
    }
    get zoomed() {
      return this.view[0] !== this.full[0] || this.view[1] !== this.full[1];
    }
    // Stretches and shifts the drawing that was made for the full axis.
    get transform() {
      const factor = (this.full[1] - this.full[0]) / (this.view[1] - this.view[0]);
      const share = (this.view[0] - this.full[0]) / (this.full[1] - this.full[0]);
      const first = this.start + share * (this.end - this.start);
      return [factor, this.start - first * factor];
    }
    ticks() {
      const unbend = (bent) => (this.log ? 10 ** bent : bent);
      const [low, high] = this.view.map(unbend);
      let ticks = [];
      if (this.unit === "nines") {
        ticks = [Math.log10(2)];
        for (let nines = 1; nines < 20; nines += 1) ticks.push(nines);
      } else if (this.log) {
        const [first, last] = [Math.floor(this.view[0]), Math.ceil(this.view[1])];
        const digits = last - first <= 3 ? [1, 2, 5] : [1];
        const apart = Math.floor((last - first) / 8) + 1;
        for (let power = first; power <= last; power += apart) {
          for (const digit of digits) ticks.push(digit * 10 ** power);
        }
      }
      const inside = (all) => all.filter((tick) => tick >= low && tick <= high);
      ticks = inside(ticks);
      if (ticks.length >= 3) return ticks;
      const raw = (high - low) / 5;
      const power = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 2.5, 5, 10].map((digit) => digit * power).find((step) => step >= raw);
      const first = Math.ceil(low / step);
      return inside([...Array(8).keys()].map((index) => (first + index) * step));
    }
  }

  // One box for all charts shows the values under the pointer.
  const tip = html("div", "", document.body);
  tip.id = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;

  const showTip = (lines, x, y) => {
    tip.replaceChildren();
    for (const [name, value, style] of lines) {
      const line = html("div", "", tip);
      if (style) line.className = style;
      html("span", name, line);
      html("b", value, line);
    }
    tip.hidden = false;
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const right = window.scrollX + document.documentElement.clientWidth;
    tip.style.left = `${Math.max(window.scrollX + 4, x + 16 + width > right ? x - width - 16 : x + 16)}px`;
    tip.style.top = `${Math.max(window.scrollY + 4, y - height - 10)}px`;
  };

  // A title would be shown as well, and over the whole chart.
  const untitle = (svg) => {
    const title = svg.querySelector(":scope > title");
    const description = svg.querySelector(":scope > desc");
    svg.removeAttribute("aria-labelledby");
    svg.setAttribute("aria-label", `${title.textContent}. ${description.textContent}`);
    title.remove();
    svg.setAttribute("tabindex", "0");
  };

  const place = (svg, event) =>
    new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());

  const onPage = (svg, x, y) => {
    const point = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    return [point.x + window.scrollX, point.y + window.scrollY];
  };

  class Lines {
    constructor(svg) {
      this.svg = svg;
      this.x = new Axis(svg.dataset.x);
      this.y = new Axis(svg.dataset.y);
      this.group = svg.querySelector(".zoomed");
      this.series = [...svg.querySelectorAll(".series")].map((group) => ({
        group,
        name: group.dataset.name,
        style: group.getAttribute("class"),
        points: group.dataset.points.split(";").filter(Boolean).map((text) => {
          const [x, y, low, high] = text.split(" ").map(Number);
          return { x, y, low, high };
        }),
      }));
      this.over = element("g", {}, svg);
      this.reset = html("button", "reset", svg.parentElement);
      this.reset.className = "reset";
      this.reset.type = "button";
      this.reset.hidden = true;
      this.reset.addEventListener("click", () => this.zoom(this.x.full, this.y.full));
      untitle(svg);
      this.listen();
      this.toggles();
    }

    get shown() {
      return this.series.filter(({ group, points }) => !group.classList.contains("off") && points.length);
    }

    zoom(x, y) {
      this.x.look(...x);
      this.y.look(...y);
      const [[sx, dx], [sy, dy]] = [this.x.transform, this.y.transform];
      this.group.setAttribute("transform", `matrix(${sx} 0 0 ${sy} ${dx} ${dy})`);
      this.reset.hidden = !this.x.zoomed && !this.y.zoomed;
      this.axis(".axis.x", this.x, (at) => [
        { d: `M${at} ${this.y.end}V${this.y.start}` }, { x: at, y: this.y.start + 17 }]);
      this.axis(".axis.y", this.y, (at) => [
        { d: `M${this.x.start} ${at}H${this.x.end}` }, { x: this.x.start - 7, y: at, dy: ".33em" }]);
      this.leave();
    }

    axis(name, axis, places) {
      const group = this.svg.querySelector(name);
      group.replaceChildren();
      let end = -Infinity;
      for (const tick of axis.ticks()) {
        const [line, label] = places(axis.at(tick));
        element("path", { class: "grid", ...line }, group);
        // A label only where the one before leaves room.
        const text = axis.show(tick);
        const half = name === ".axis.x" ? text.length * 3.45 : 0;
        if (half && axis.at(tick) - half < end + 7) continue;
        end = axis.at(tick) + half;
        element("text", label, group).textContent = text;
      }
    }

    // All series at the point of any of them that is nearest along the axis.
    point(place) {
      let nearest = null;
      for (const { points } of this.shown) {
        for (const point of points) {
          const far = Math.abs(this.x.at(point.x) - place);
          if (!nearest || far < nearest.far) nearest = { far, x: point.x };
        }
      }
      if (nearest) this.mark(nearest.x);
    }

    mark(x) {
      this.over.replaceChildren();
      this.current = x;
      const at = this.x.at(x);
      const lines = [[this.x.show(x), ""]];
      element("path", { class: "cross", d: `M${at} ${this.y.end}V${this.y.start}` }, this.over);
      let top = this.y.start;
      for (const { points, name, style } of this.shown) {
        const far = (point) => Math.abs(this.x.at(point.x) - at);
        const point = points.reduce((best, point) => (far(point) < far(best) ? point : best));
        if (far(point) > 12) continue;
        const y = Math.min(Math.max(this.y.at(point.y), this.y.end), this.y.start);
        top = Math.min(top, y);
        element("circle", { class: `spot ${style}`, cx: this.x.at(point.x), cy: y, r: 4.5 }, this.over);
        const band = point.low === undefined ? "" : ` [${this.y.show(point.low)}, ${this.y.show(point.high)}]`;
        lines.push([name, this.y.show(point.y) + band, style]);
      }
      showTip(lines, ...onPage(this.svg, at, top));
    }

    leave() {
      this.over.replaceChildren();
      tip.hidden = true;
    }

    step(direction) {
      const all = [...new Set(this.shown.flatMap(({ points }) => points.map(({ x }) => x)))];
      const visible = all.filter((x) => this.x.at(x) >= this.x.start - 1 && this.x.at(x) <= this.x.end + 1);
      visible.sort((a, b) => a - b);
      if (!visible.length) return;
      const index = visible.indexOf(this.current);
      const next = index < 0 ? (direction > 0 ? 0 : visible.length - 1) : index + direction;
      this.mark(visible[Math.min(Math.max(next, 0), visible.length - 1)]);
    }

    listen() {
      const { svg } = this;
      let from = null;
      svg.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        const start = place(svg, event);
        if (start.x < this.x.start || start.x > this.x.end || start.y > this.y.start) return;
        from = start;
        svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener("pointermove", (event) => {
        const at = place(svg, event);
        if (!from) return this.point(at.x);
        this.leave();
        element("rect", { class: "frame-of-zoom", ...this.box(from, at) }, this.over);
      });
      svg.addEventListener("pointerup", (event) => {
        const begun = from;
        from = null;
        if (!begun) return;
        const box = this.box(begun, place(svg, event));
        if (box.width < 8) return;
        this.zoom(
          [this.x.bentAt(box.x), this.x.bentAt(box.x + box.width)],
          [this.y.bentAt(box.y + box.height), this.y.bentAt(box.y)],
        );
      });
      svg.addEventListener("pointercancel", () => { from = null; this.leave(); });
      svg.addEventListener("pointerleave", () => { if (!from) this.leave(); });
      svg.addEventListener("blur", () => this.leave());
      svg.addEventListener("dblclick", () => this.zoom(this.x.full, this.y.full));
      svg.addEventListener("keydown", (event) => {
        const keys = {
          ArrowLeft: () => this.step(-1),
          ArrowRight: () => this.step(1),
          Escape: () => this.zoom(this.x.full, this.y.full),
        };
        if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        keys[event.key]();
      });
    }

    // Frame of a drag; all of the height unless the frame is clearly a box.
    box(start, end) {
      const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
      const [x0, x1] = [start.x, clamp(end.x, this.x.start, this.x.end)].sort((a, b) => a - b);
      let [y0, y1] = [start.y, clamp(end.y, this.y.end, this.y.start)].sort((a, b) => a - b);
      if (y1 - y0 < 30) [y0, y1] = [this.y.end, this.y.start];
      return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    }

    toggles() {
      for (const item of this.svg.parentElement.querySelectorAll(".legend li")) {
        const { group } = this.series[Number(item.dataset.series)];
        item.setAttribute("role", "button");
        item.setAttribute("tabindex", "0");
        item.setAttribute("aria-pressed", "true");
        const toggle = () => {
          const off = group.classList.toggle("off");
          item.setAttribute("aria-pressed", String(!off));
        };
        item.addEventListener("click", toggle);
        item.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          toggle();
        });
      }
      const legend = this.svg.parentElement.querySelector(".legend");
      if (legend) legend.setAttribute("role", "group");
    }
  }

  class Rows {
    constructor(svg) {
      this.svg = svg;
      this.rows = [...svg.querySelectorAll(".row")].map((group) => {
        const title = group.querySelector("title");
        const text = title.textContent;
        title.remove();
        return { group, text };
      });
      untitle(svg);
      let current = -1;
      const mark = (index) => {
        this.leave();
        current = Math.min(Math.max(index, 0), this.rows.length - 1);
        const { group, text } = this.rows[current];
        group.classList.add("at");
        const box = group.getBoundingClientRect();
        showTip([[text, ""]], box.left + box.width / 3 + window.scrollX, box.top + window.scrollY);
      };
      this.rows.forEach(({ group }, index) => {
        group.addEventListener("pointerenter", () => mark(index));
        group.addEventListener("pointerleave", () => this.leave());
      });
      svg.addEventListener("blur", () => this.leave());
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (!step || !this.rows.length) return;
        event.preventDefault();
        mark(current + step);
      });
    }
    leave() {
      for (const { group } of this.rows) group.classList.remove("at");
      tip.hidden = true;
    }
  }

  for (const svg of document.querySelectorAll("svg.lines")) new Lines(svg);
  for (const svg of document.querySelectorAll("svg.rows")) new Rows(svg);
  if (document.querySelector("svg.lines")) {
    const hint = html(
      "p",
      "Charts: point to read values, drag to zoom, double-click or Escape to undo; arrow keys move " +
        "along a line.",
      document.querySelector("header"),
    );
    hint.className = "note";
  }
  document.documentElement.classList.add("scripted");
})();
