// The map of nodes: a canvas with a cell a node, and one node in detail.

const LIGHT = [[233, 239, 247], [139, 182, 232], [37, 99, 176], [14, 45, 92]];
const DARK = [[36, 45, 58], [40, 88, 148], [98, 164, 236], [222, 236, 255]];
const STEPS = 64;

export function bytes(amount) {
  for (const [power, unit] of [[40, "Ti"], [30, "Gi"], [20, "Mi"], [10, "Ki"]]) {
    if (amount >= 2 ** power) return `${+(amount / 2 ** power).toFixed(1)} ${unit}B`;
  }
  return `${amount} B`;
}

export function cores(milli) {
  return `${+(milli / 1000).toFixed(milli < 10000 ? 2 : 0)}`;
}

export function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function ramp(dark) {
  const stops = dark ? DARK : LIGHT;
  return Array.from({ length: STEPS }, (_, step) => {
    const at = (step / (STEPS - 1)) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const mixed = stops[low].map((part, i) => Math.round(part + (stops[low + 1][i] - part) * (at - low)));
    return `rgb(${mixed.join(" ")})`;
  });
}

export class NodeMap {
  constructor(canvas, told, show) {
    this.canvas = canvas;
    this.told = told;
    this.names = [];
    this.columns = null;
    this.by = "cpu";
    this.found = "";
    this.at = -1;
    this.cell = 0;
    this.across = 1;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.point(this.under(event)));
    canvas.addEventListener("pointerleave", () => this.point(-1));
    canvas.addEventListener("click", (event) => {
      const index = this.under(event);
      if (index >= 0) show(this.names[index]);
    });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.across, ArrowDown: this.across };
      if (event.key in steps && this.names.length) {
        event.preventDefault();
        const next = this.at < 0 ? 0 : this.at + steps[event.key];
        this.point(Math.max(0, Math.min(this.names.length - 1, next)));
      } else if ((event.key === "Enter" || event.key === " ") && this.at >= 0) {
        event.preventDefault();
        show(this.names[this.at]);
      }
    });
  }

  update(names, columns) {
    if (names) this.names = names;
    this.columns = columns;
    this.cordoned = new Set(columns.cordoned);
    if (this.at >= this.names.length) this.at = -1;
    this.draw();
    if (this.at >= 0) this.tell();
  }

  colour(dark) {
    this.colours = ramp(dark);
    this.mark = dark ? "#ffd166" : "#b3261e";
    this.faint = dark ? "#9aa7b8" : "#5a6675";
    const legend = document.getElementById("ramp");
    const context = legend.getContext("2d");
    this.colours.forEach((colour, step) => {
      context.fillStyle = colour;
      context.fillRect((step * legend.width) / STEPS, 0, legend.width / STEPS + 1, legend.height);
    });
    this.draw();
  }

  draw() {
    const { canvas, columns } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!columns || !width || !this.colours) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const count = this.names.length;
    let cell = Math.max(3, Math.min(34, Math.floor(Math.sqrt((width * height) / Math.max(count, 1)))));
    while (cell > 3 && Math.ceil(count / Math.floor(width / cell)) * cell > height) cell -= 1;
    this.cell = cell;
    this.across = Math.max(1, Math.floor(width / cell));
    const gap = cell > 5 ? 1 : 0;
    const values = columns[this.by];
    const wanted = this.found.toLowerCase();
    for (let index = 0; index < count; index += 1) {
      const x = (index % this.across) * cell;
      const y = Math.floor(index / this.across) * cell;
      context.globalAlpha = wanted && !this.names[index].toLowerCase().includes(wanted) ? 0.15 : 1;
      context.fillStyle = this.colours[Math.max(0, Math.min(STEPS - 1, Math.floor((values[index] / 1000) * STEPS)))];
      context.fillRect(x, y, cell - gap, cell - gap);
      if (this.cordoned.has(index)) {
        context.strokeStyle = this.faint;
        context.beginPath();
        context.moveTo(x, y + cell - gap);
        context.lineTo(x + cell - gap, y);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    if (this.at >= 0) {
      context.strokeStyle = this.mark;
      context.lineWidth = 2;
      context.strokeRect((this.at % this.across) * cell, Math.floor(this.at / this.across) * cell, cell - gap, cell - gap);
    }
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.cell);
    const index = Math.floor((event.clientY - box.top) / this.cell) * this.across + column;
    return column < this.across && index < this.names.length ? index : -1;
  }

  point(index) {
    if (index === this.at) return;
    this.at = index;
    this.draw();
    this.tell();
  }

  tell() {
    const { columns, at } = this;
    if (at < 0) {
      this.told.textContent = "Point at a node, or move with the arrow keys.";
      return;
    }
    const share = (column) => `${(columns[column][at] / 10).toFixed(0)} %`;
    const cordoned = this.cordoned.has(at) ? ", cordoned" : "";
    this.told.textContent = `${this.names[at]}: CPU ${share("cpu")}, memory ${share("memory")}, ${columns.count[at]} pod${columns.count[at] === 1 ? "" : "s"} (${share("pods")})${cordoned}`;
  }
}

export function showNode(place, node, close, explain) {
  place.replaceChildren();
  const button = element("button", "Close", { type: "button", class: "close" });
  button.addEventListener("click", close);
  place.append(button, element("h3", node.name, { tabindex: "-1" }));
  const [cpu, memory, pods] = ["cpu", "memory", "pods"].map((name) => node.amounts[name]);
  place.append(element("p", `CPU ${cores(cpu[0])} of ${cores(cpu[1])}; memory ${bytes(memory[0])} of ${bytes(memory[1])}; ${pods[0]} of ${pods[1]} pods${node.cordoned ? "; cordoned" : ""}`));
  for (const taint of node.taints) {
    place.append(element("p", `Taint ${taint.key}${taint.value ? `=${taint.value}` : ""}:${taint.effect}`, { class: "dim" }));
  }
  const labels = Object.entries(node.labels).map(([key, value]) => `${key}=${value}`);
  place.append(element("p", labels.join("  "), { class: "dim" }));
  const table = element("table");
  const head = element("tr");
  for (const text of ["Pod", "CPU", "Memory", "Priority"]) head.append(element("th", text, { scope: "col" }));
  table.append(head);
  for (const pod of node.pods) {
    const row = element("tr");
    const cell = element("td");
    const link = element("button", pod.pod, { type: "button" });
    link.addEventListener("click", () => explain(pod.pod));
    cell.append(link);
    row.append(cell, element("td", cores(pod.cpu)), element("td", bytes(pod.memory)), element("td", pod.priority));
    table.append(row);
  }
  place.append(table);
  place.hidden = false;
  place.querySelector("h3").focus();
}
