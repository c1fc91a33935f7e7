"use strict";
(function () {
  const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const part of all(".by-script")) part.hidden = false;

  // sorting: numbers as numbers, what is no number last
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.order || cell.textContent.trim();
    const words = text.replace(/,/g, "").split(" ");
    // `12 of 13`, and `error 0.0166` where a value is a finding
    const value = [words[0], words[words.length - 1]].map(Number).find((one) => text !== "" && !Number.isNaN(one));
    return value === undefined ? text.toLowerCase() : value;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  const sort = (table, head) => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const column = head.cellIndex;
    const keyed = Array.from(table.tBodies[0].rows, (row) => [key(row, column), row]);
    keyed.sort((a, b) => (falls ? compare(b[0], a[0]) : compare(a[0], b[0])));
    table.tBodies[0].append(...keyed.map((pair) => pair[1]));
  };
  for (const table of all("table.sortable")) {
    for (const head of all("thead th", table)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, head));
      head.replaceChildren(button);
    }
  }

  // filtering: rows that hold every word; a finding without rows left is hidden, as is one of a severity not shown
  const form = document.querySelector("form.filters");
  const rows = all("table.rows > tbody > tr").map((row) => {
    const card = row.closest(".card");
    const near = card ? card.querySelector("h4").textContent : row.closest("details.values")?.querySelector("summary").textContent;
    return { row, card, text: `${row.textContent} ${near || ""}`.toLowerCase() };
  });
  const filter = () => {
    const words = form.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
    const hidden = new Set(all("input[type=checkbox]", form).filter((box) => !box.checked).map((box) => box.value));
    const cards = new Set();
    let shown = 0;
    for (const one of rows) {
      const isShown = words.every((word) => one.text.includes(word)) && !(one.card && hidden.has(one.card.dataset.severity));
      one.row.hidden = !isShown;
      if (isShown) {
        shown += 1;
        cards.add(one.card);
      }
    }
    for (const card of all(".card")) card.hidden = !cards.has(card);
    for (const block of all(".diagnosis, .follows")) block.hidden = !block.querySelector(".card:not([hidden])");
    for (const block of all("details.values")) block.hidden = words.length > 0 && !block.querySelector("tbody tr:not([hidden])");
    const isWhole = words.length === 0 && hidden.size === 0;
    // what is looked for is not to be found in a fold; afterwards a fold is as it was
    for (const fold of all("details.follows")) {
      if (!isWhole && !fold.dataset.was) fold.dataset.was = fold.open ? "open" : "shut";
      if (fold.dataset.was) fold.open = isWhole ? fold.dataset.was === "open" : true;
      if (isWhole) delete fold.dataset.was;
    }
    form.querySelector("output").textContent = isWhole ? "" : `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  if (form) {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", filter);
  }

  // a link into a folded manual opens it, and the fold that it lies in
  const open = () => {
    const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    for (let one = place; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  };
  window.addEventListener("hashchange", open);
  open();

  // another curve in the place of the first, on the same axes
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
    return made;
  };
  const share = ([low, high, isLog], value) => {
    const of = isLog ? (v) => Math.log10(Math.max(v, 1e-300)) : (v) => v;
    return Math.min(Math.max((of(value) - of(low)) / (of(high) - of(low)), 0), 1);
  };
  const draw = (figure, group, curve) => {
    const [left, top, width, height] = group.box;
    const at = (x, y) => [left + width * share(group.axes[0], x), top + height * (1 - share(group.axes[1], y))];
    const path = (values) => "M" + values.map((y, i) => at(curve.x[i], y).map((v) => v.toFixed(1)).join(" ")).join("L");
    figure.querySelector("path.curve").setAttribute("d", path(curve.y));
    const level = figure.querySelector("path.level");
    if (level) level.setAttribute("d", curve.null.length ? path(curve.null) : "");
    figure.querySelector("g.points").replaceChildren(...curve.y.map((y, i) => {
      const [cx, cy] = at(curve.x[i], y);
      const point = svg("circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r: 2.2 });
      const title = svg("title", {});
      title.textContent = `${group.names[0]} ${curve.x[i]}: ${y}`;
      point.append(title);
      return point;
    }));
    const last = curve.y.length - 1;
    figure.querySelector("svg").setAttribute("aria-label",
      `${curve.name}: ${group.names[1]} ${curve.y[0]} at ${group.names[0]} ${curve.x[0]}, ${curve.y[last]} at ${curve.x[last]}`);
    figure.querySelector(".note").textContent = `${group.names[1]} over ${group.names[0]}: ${curve.name}`;
  };
  for (const figure of all("figure.choose")) {
    const group = data.curves[figure.dataset.curves];
    const choice = figure.querySelector("select");
    choice.addEventListener("change", () => draw(figure, group, group.curves[choice.selectedIndex]));
  }
})();
