// The last decisions and the waiting pods as tables, and one decision in detail.

import { element } from "./nodes.js";

function link(text, action) {
  const cell = element("td");
  const button = element("button", text, { type: "button" });
  button.addEventListener("click", action);
  cell.append(button);
  return cell;
}

export function age(seconds) {
  if (seconds < 100) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

// Rows are replaced only if they changed, so that focus and selection survive a poll.
function fill(body, rows) {
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const made = rows.map(({ key, make, refresh }) => {
    const row = old.get(key) ?? make();
    row.dataset.key = key;
    if (refresh) refresh(row);
    return row;
  });
  if (made.length !== body.rows.length || made.some((row, index) => body.rows[index] !== row)) {
    const focused = document.activeElement;
    body.replaceChildren(...made);
    if (focused && body.contains(focused)) focused.focus();
  }
}

export function fillDecisions(body, decisions, now, explain) {
  fill(body, decisions.toReversed().map((made) => ({
    key: String(made.number),
    make: () => {
      const row = element("tr");
      const node = made.node ? element("td", made.node) : element("td", made.nominated ? `none; room is made on ${made.nominated}` : "none", { class: "none" });
      row.append(element("td"), link(made.pod, () => explain(made.pod, made.number)), node,
        element("td", made.node ? made.score : "–"), element("td", made.evaluated ? `${made.feasible} of ${made.evaluated}` : "–"));
      return row;
    },
    refresh: (row) => { row.cells[0].textContent = age(now - Date.parse(made.time) / 1000); },
  })));
}

export function fillPending(body, pending, now, explain) {
  fill(body, pending.map((pod) => ({
    key: JSON.stringify([pod.pod, pod.place, pod.attempts, pod.reason, pod.nominated]),
    make: () => {
      const row = element("tr");
      const held = pod.place === "gated" ? "held back by a gate. " : "";
      const room = pod.nominated ? `Room is made on ${pod.nominated}. ` : "";
      row.append(link(pod.pod, () => explain(pod.pod)), element("td"), element("td", pod.attempts),
        element("td", `${held}${room}${pod.reason}`));
      return row;
    },
    refresh: (row) => { row.cells[1].textContent = age(now - pod.created); },
  })));
}

function scores(explained) {
  const table = element("table");
  const head = element("tr");
  head.append(element("th", "Node", { scope: "col" }), element("th", "Total", { scope: "col", class: "number" }));
  for (const plugin of explained.plugins) {
    const text = plugin.weight === 1 ? plugin.name : `${plugin.name} ×${plugin.weight}`;
    head.append(element("th", text, { scope: "col", class: "number" }));
  }
  table.append(head);
  for (const node of explained.nodes.filter((each) => each.fits)) {
    const row = element("tr", null, node.name === explained.node ? { class: "chosen" } : {});
    row.append(element("td", node.name), element("td", node.total, { class: "number" }));
    for (const plugin of explained.plugins) {
      const { score, weighted } = node.scores[plugin.name];
      row.append(element("td", weighted, { class: "number", title: `${score} × ${plugin.weight}` }));
    }
    table.append(row);
  }
  return table;
}

export function showDecision(place, explained, close) {
  place.replaceChildren();
  const button = element("button", "Close", { type: "button", class: "close" });
  button.addEventListener("click", close);
  place.append(button, element("h3", explained.pod ?? "Nothing is known", { tabindex: "-1" }));
  if (explained.pod === undefined) {
    place.append(element("p", `${explained.message}: whipstaff explain decides about it anew.`));
  } else {
    const what = explained.node ? `${explained.node} was chosen, with a score of ${explained.score}; ${explained.feasible} of ${explained.evaluated} nodes would do.` : explained.message;
    place.append(element("p", what));
    if (explained.nominated) place.append(element("p", `Room is made on ${explained.nominated}; evicted for it: ${explained.victims.join(", ")}`));
    for (const note of explained.notes) place.append(element("p", note, { class: "dim" }));
    if (explained.nodes?.some((node) => node.fits)) place.append(scores(explained));
    if (explained.groups?.length) {
      place.append(element("p", "Nodes that don't fit:"));
      const list = element("ul");
      for (const group of explained.groups) {
        const like = group.examples.length ? `, such as ${group.examples.slice(0, 3).join(", ")}` : "";
        list.append(element("li", `${group.count.toLocaleString("en")}: ${group.reasons.join(", ")} (${group.plugin || "filters"})${like}`));
      }
      place.append(list);
    }
    if (explained.needs.length) {
      place.append(element("p", "For the pod to fit:"));
      const list = element("ul", null, { class: "needs" });
      for (const each of explained.needs) {
        list.append(element("li", each.node ? `${each.node} needs ${each.changes.join("; ")}` : `on any node: ${each.changes.join("; ")}`));
      }
      place.append(list);
    }
  }
  place.hidden = false;
  place.querySelector("h3").focus();
}
