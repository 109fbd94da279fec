// Makes the report easier to use; everything is readable without it.
"use strict";
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

for (const button of document.querySelectorAll("[data-tree]")) {
  button.addEventListener("click", () => {
    for (const details of document.querySelectorAll(".tree details")) details.open = button.dataset.tree === "open";
  });
}

const table = document.getElementById("table");
const rows = [...table.tBodies[0].rows];
const find = document.getElementById("find");
const found = document.getElementById("found");

find.addEventListener("input", () => {
  const text = find.value.trim().toLowerCase();
  let shown = 0;
  for (const row of rows) {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
    shown += row.hidden ? 0 : 1;
  }
  found.textContent = text ? `${shown} of ${rows.length}` : "";
});

function valueOf(row, index, kind) {
  const text = row.cells[index].textContent;
  if (kind === "text") return text;
  const number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? null : number;  // "unknown" stays at the end
}

[...table.tHead.rows[0].cells].forEach((head, index) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const kind = head.dataset.sort;
    const order = head.ariaSort === (kind === "text" ? "ascending" : "descending") ? -1 : 1;
    const direction = kind === "text" ? order : -order;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.ariaSort = direction === 1 ? "ascending" : "descending";
    const values = new Map(rows.map((row) => [row, valueOf(row, index, kind)]));
    const sorted = [...rows].sort((one, other) => {
      const [a, b] = [values.get(one), values.get(other)];
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * (kind === "text" ? a.localeCompare(b) : a - b);
    });
    table.tBodies[0].append(...sorted);
  });
});

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
