"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const grid = find(".cards"), cards = all(".card"), chips = all(".chips button");
  const kind = find("#kind"), sort = find("#sort"), search = find("#search"), large = find("#large");
  let outcomes = null, current = null;
  find(".tools").hidden = false;

  const fits = (card) =>
    (!outcomes || outcomes.includes(card.dataset.outcome)) &&
    (!kind.value || card.dataset.kind === kind.value.slice(1)) &&
    card.dataset.name.toLowerCase().includes(search.value.trim().toLowerCase());
  const show = () => {
    let count = 0;
    for (const card of cards) count += !(card.hidden = !fits(card));
    find("#nothing").hidden = count > 0;
  };
  const number = (key) => (a, b) => Number(a.dataset[key]) - Number(b.dataset[key]);
  const orders = {
    "number": number("number"), "nfa": number("nfa"), "nfa-down": (a, b) => number("nfa")(b, a),
    "name": (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
  };
  for (const chip of chips) chip.addEventListener("click", () => {
    for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
    outcomes = chip.dataset.outcomes ? chip.dataset.outcomes.split(" ") : null;
    show();
  });
  kind.addEventListener("change", show);
  search.addEventListener("input", show);
  sort.addEventListener("change", () => grid.append(...cards.sort(orders[sort.value])));
  for (const layer of all("[data-layer]")) layer.addEventListener("change", () =>
    document.body.classList.toggle("no-" + layer.dataset.layer, !layer.checked));

  const mark = (event) => {
    const row = event.target.closest("tr[data-region]"), root = event.target.closest(".card, .inside");
    if (root) for (const box of all(".box", root)) box.classList.toggle("on", event.type === "mouseover" && !!row && box.dataset.region === row.dataset.region);
  };
  document.addEventListener("mouseover", mark);
  document.addEventListener("mouseout", mark);

  const open = (card) => {
    current = card;
    const inside = find(".inside");
    inside.replaceChildren(...[...card.children].map((child) => child.cloneNode(true)));
    for (const image of all("img", inside)) image.loading = "eager";
    for (const details of all("details", inside)) details.open = true;
    find(".bar span").textContent = card.dataset.name;
    if (!large.open) large.showModal();
  };
  const step = (by) => {
    const shown = cards.filter((card) => !card.hidden);
    open(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
  };
  grid.addEventListener("click", (event) => { if (event.target.closest(".view")) open(event.target.closest(".card")); });
  large.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === large || (button && "close" in button.dataset)) large.close();
    else if (button && button.dataset.step) step(Number(button.dataset.step));
  });
  document.addEventListener("keydown", (event) => {
    if (large.open && (event.key === "ArrowLeft" || event.key === "ArrowRight")) step(event.key === "ArrowLeft" ? -1 : 1);
  });
  const reveal = () => {  // a dot of the chart was chosen: its card must not be filtered away
    const card = location.hash && document.getElementById(location.hash.slice(1));
    if (!card || !card.hidden) return;
    search.value = ""; kind.value = ""; chips[0].click(); card.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
})();
