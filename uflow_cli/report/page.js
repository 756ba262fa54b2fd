"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const grid = find(".cards"), cards = all(".card"), chips = all(".chips button");
  const areas = ["#area-from", "#area-to"].map((id) => find(id)), kind = find("#kind"), sort = find("#sort"), search = find("#search"), large = find("#large");
  let outcomes = null, current = null;
  find(".tools").hidden = false;

  const fits = (card) =>
    (!outcomes || outcomes.includes(card.dataset.outcome)) &&
    (!kind.value || card.dataset.kind === kind.value.slice(1)) &&
    (areas[0].value === "" || Number(card.dataset.area) >= Number(areas[0].value)) &&
    (areas[1].value === "" || Number(card.dataset.area) <= Number(areas[1].value)) &&
    card.dataset.name.toLowerCase().includes(search.value.trim().toLowerCase());
  const show = () => {
    let count = 0;
    for (const card of cards) count += !(card.hidden = !fits(card));
    find("#nothing").hidden = count > 0;
  };
  const number = (key) => (a, b) => Number(a.dataset[key]) - Number(b.dataset[key]);
  const orders = {
    "number": number("number"), "nfa": number("nfa"), "nfa-down": (a, b) => number("nfa")(b, a),
    "area": (a, b) => number("area")(b, a),
    "name": (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
  };
  for (const chip of chips) chip.addEventListener("click", () => {
    for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
    outcomes = chip.dataset.outcomes ? chip.dataset.outcomes.split(" ") : null;
    show();
  });
  kind.addEventListener("change", show);
  for (const field of [search, ...areas]) field.addEventListener("input", show);
  sort.addEventListener("change", () => grid.append(...cards.sort(orders[sort.value])));
  for (const layer of all("[data-layer]")) layer.addEventListener("change", () =>
    document.body.classList.toggle("no-" + layer.dataset.layer, !layer.checked));

  const mark = (event) => {
    const row = event.target.closest("tr[data-region]"), root = event.target.closest(".card, .inside");
    if (root) for (const box of all(".box", root)) box.classList.toggle("on", event.type === "mouseover" && !!row && box.dataset.region === row.dataset.region);
  };
  document.addEventListener("mouseover", mark);
  document.addEventListener("mouseout", mark);

  // Another threshold: verdicts, counts and outlines from what is stored of each image.
  const decide = find(".decide"), marked = new Map(), decoded = new Map(), inSight = new Set();
  const [initial, low, high, width] = ["threshold", "low", "high", "width"].map((key) => decide ? Number(decide.dataset[key]) : 0);
  const squeeze = (value) => Math.asinh(Math.min(Math.max(value, -1e7), 1e7) / 2);
  const words = { "missed": "Good · missed", "false-alarm": "Defect · false alarm", "found": "Defect", "flagged": "Defect" };
  let threshold = initial;
  const outcomeOf = (flagged, truth) =>
    truth === "" ? (flagged ? "flagged" : "passed") : truth === "1" ? (flagged ? "found" : "missed") : flagged ? "false-alarm" : "correct-pass";
  const isFlagged = (card) => Number(card.dataset.nfa) < threshold;
  const indices = (link) => {  // the numbers of the levels of a map, (width, height, one per pixel)
    if (!decoded.has(link)) decoded.set(link, (async () => {
      const image = new Image();
      image.src = link;
      await image.decode();
      const canvas = document.createElement("canvas"), width = canvas.width = image.width, height = canvas.height = image.height;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, width, height).data;
      return { width, height, values: Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i]) };
    })());
    return decoded.get(link);
  };
  const draw = async (canvas) => {
    const { width, height, values } = await indices(canvas.dataset.map);
    const limit = canvas.dataset.levels.split(" ").filter((level) => level && Number(level) < threshold).length;
    const context = canvas.getContext("2d"), inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] < limit;
    canvas.width = width; canvas.height = height;
    const picture = context.createImageData(width, height);
    let count = 0;
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (inside(x, y)) {
      const isRim = !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1));
      picture.data.set([0, 225, 255, isRim ? 255 : 40], 4 * (y * width + x));
      count++;
    }
    context.putImageData(picture, 0, 0);
    canvas.dataset.pixels = count;
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      inSight[entry.isIntersecting ? "add" : "delete"](entry.target);
      if (entry.isIntersecting) draw(entry.target);
    }
  });
  const label = (card) => {
    for (const button of all(".mark", card).concat(large.open && current === card ? all(".inside .mark") : [])) {
      button.hidden = false;
      button.textContent = marked.get(card) || (isFlagged(card) ? "good after all?" : "missed?");
      button.setAttribute("aria-pressed", String(marked.has(card)));
    }
  };
  const toggle = (card) => {
    if (!marked.delete(card)) marked.set(card, isFlagged(card) ? "good after all" : "missed");
    find("#save b").textContent = marked.size;
    find("#save").disabled = !marked.size;
    label(card);
  };
  find("#save").addEventListener("click", () => {
    const images = [...marked].map(([card, mark]) => ({ path: card.dataset.path || card.dataset.name, mark, log_nfa: Number(card.dataset.nfa) }));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify({ version: 3, threshold, images }, null, 1)], { type: "application/json" }));
    link.download = "marked.json";
    link.click();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".mark");
    if (button) toggle(button.closest(".card") || current);
  });
  const share = (number, total) => `${Number((100 * number / total).toPrecision(3))} %`;
  const count = (truth) => {
    const those = cards.filter((card) => card.dataset.truth === truth);
    return [those.filter(isFlagged).length, those.length];
  };
  const apply = (value) => {
    threshold = value;
    document.body.classList.toggle("moved", threshold !== initial);
    for (const card of cards) {
      const outcome = outcomeOf(isFlagged(card), card.dataset.truth);
      if (outcome !== card.dataset.outcome) {
        const badge = find(".badge", card), dot = find(`a[href="#${card.id}"] .dot`);
        card.dataset.outcome = outcome;
        badge.className = `badge ${outcome}`;
        badge.textContent = words[outcome] || "Good";
        if (dot) dot.setAttribute("class", `dot ${outcome}`);
      }
      label(card);
    }
    const groups = [["1", "of defective images"], ["0", "of good images"], ["", "of images without known truth"]];
    const counts = groups.map(([truth, which]) => [...count(truth), which]).filter(([, total]) => total);
    all(".counted .figure").forEach((figure, i) => {
      const [flagged, total, which] = counts[i], small = document.createElement("small");
      small.textContent = ` / ${total.toLocaleString("en")}`;
      find("strong", figure).replaceChildren(flagged.toLocaleString("en"), small);
      find(".note", figure).textContent = `${share(flagged, total)} ${which}`;
    });
    for (const row of all("tr[data-row]")) {
      const those = cards.filter((card) => (card.dataset.kind || "unlabelled") === row.dataset.row), flagged = those.filter(isFlagged).length;
      row.children[2].firstChild.nodeValue = flagged;
      find(".meter i", row).style.width = `${(100 * flagged / those.length).toFixed(0)}%`;
    }
    for (const chip of chips) {
      const shown = chip.dataset.outcomes.split(" ").filter(Boolean);
      find("b", chip).textContent = cards.filter((card) => !shown.length || shown.includes(card.dataset.outcome)).length.toLocaleString("en");
    }
    const lot = decide.dataset.lot, expected = 10 ** threshold;
    const promise = lot ? [`${expected < 1e-3 || expected >= 1e6 ? expected.toExponential(1) : Number(expected.toPrecision(3))} false detections expected in ${lot === "1" ? "a good image" : `${lot} good images`}`] : [];
    find("#decided").textContent = [...counts.map(([flagged, total, which]) => `${flagged} of ${total} ${which.replace("of ", "")} flagged`), ...promise].join(" · ");
    const place = (value) => width * Math.min(Math.max((squeeze(value) - low) / (high - low), 0), 1);
    const lines = all("path.threshold", decide.parentElement), line = lines[0], chart = line.closest("svg");
    for (const part of [...lines, line.nextElementSibling]) part.setAttribute("transform", `translate(${place(threshold) - place(initial)} 0)`);
    line.nextElementSibling.textContent = `threshold ${Number(threshold.toPrecision(3))}`.replace("-", "−");
    find("#called").textContent = cards.filter(isFlagged).length.toLocaleString("en").replace(/^0$/, "none");
    find(".zone", chart).setAttribute("width", place(threshold));
    find("#threshold").value = 1000 * place(threshold) / width;
    find("#exact").value = Number(threshold.toPrecision(6));
    for (const canvas of inSight) draw(canvas);
    if (large.open) for (const canvas of all(".inside canvas")) draw(canvas);
    show();
  };
  if (decide) {
    decide.hidden = false;
    for (const canvas of all("canvas")) { watcher.observe(canvas); canvas.closest(".frame").classList.add("has-map"); }
    find("#threshold").addEventListener("input", (event) => apply(2 * Math.sinh(low + (high - low) * Number(event.target.value) / 1000)));
    find("#exact").addEventListener("change", (event) => { if (event.target.value !== "" && isFinite(event.target.value)) apply(Number(event.target.value)); });
    find("#reset").addEventListener("click", () => apply(initial));
  }

  // An image enlarged: its layers over each other or side by side, zoomed and moved together.
  let apart = false, zoom = 1, moved = [0, 0], dragged = null;
  const inside = find(".inside");
  const place = (scale, x, y) => {  // x and y: the way of the upper left corner, in widths and heights of the picture
    zoom = Math.min(Math.max(scale, 1), 40);
    moved = [x, y].map((way) => Math.min(Math.max(way, 1 - zoom), 0));
    for (const frame of all(".frame", inside)) frame.style.transform = zoom === 1 ? "" : `translate(${100 * moved[0]}%, ${100 * moved[1]}%) scale(${zoom})`;
    inside.classList.toggle("zoomed", zoom > 1);
  };
  const zoomTo = (scale, x = 0.5, y = 0.5) => {  // what is at (x, y) of the picture stays where it is
    const now = Math.min(Math.max(scale, 1), 40);
    place(now, moved[0] + x * (zoom - now), moved[1] + y * (zoom - now));
  };
  const pointed = (event) => {
    const box = (find(".frame", event.target.closest(".panel")) || event.target).getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const panel = (card, only) => {
    const part = document.createElement("div"), caption = document.createElement("b");
    part.className = `panel ${only ? `only-${only[0]}` : ""}`;
    part.append(find(".frame", card).cloneNode(true));
    caption.textContent = only ? only[1] : "";
    part.append(only ? caption : find(".badge", card).cloneNode(true));
    return part;
  };
  const open = (card) => {
    current = card;
    const view = document.createElement("div"), layers = [["picture", "image"]];
    if (find(".heat", card)) layers.push(["heat", "evidence"]);
    layers.push(["found", "found"]);
    if (find(".layer-true", card)) layers.push(["true", "true"]);
    view.className = "view";
    view.append(...(apart ? layers.map((only) => panel(card, only)) : [panel(card, null)]));
    inside.replaceChildren(view, find(".text", card).cloneNode(true));
    inside.classList.toggle("apart", apart);
    find("[data-apart]").setAttribute("aria-pressed", String(apart));
    place(1, 0, 0);
    for (const image of all("img", inside)) image.loading = "eager";
    for (const details of all("details", inside)) details.open = true;
    for (const canvas of all("canvas", inside)) draw(canvas);
    find(".bar span").textContent = card.dataset.name;
    if (!large.open) large.showModal();
    label(card);
  };
  inside.addEventListener("wheel", (event) => {
    if (!event.target.closest(".panel")) return;
    event.preventDefault();
    zoomTo(zoom * Math.exp(-0.002 * event.deltaY), ...pointed(event));
  }, { passive: false });
  inside.addEventListener("dblclick", (event) => {
    if (event.target.closest(".panel")) if (zoom > 1) place(1, 0, 0); else zoomTo(4, ...pointed(event));
  });
  inside.addEventListener("pointerdown", (event) => {
    const held = event.target.closest(".panel");
    if (!held || zoom === 1) return;
    dragged = [event.clientX, event.clientY, ...moved, find(".frame", held)];
    held.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  inside.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    const [x, y, left, top, frame] = dragged;
    place(zoom, left + (event.clientX - x) / frame.offsetWidth, top + (event.clientY - y) / frame.offsetHeight);
  });
  for (const end of ["pointerup", "pointercancel"]) inside.addEventListener(end, () => { dragged = null; });
  const step = (by) => {
    const shown = cards.filter((card) => !card.hidden);
    open(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
  };
  grid.addEventListener("click", (event) => { if (event.target.closest(".view")) open(event.target.closest(".card")); });
  large.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === large || (button && "close" in button.dataset)) large.close();
    else if (button && button.dataset.step) step(Number(button.dataset.step));
    else if (button && button.dataset.zoom) zoomBy(Number(button.dataset.zoom));
    else if (button && "apart" in button.dataset) setApart();
  });
  const zoomBy = (way) => { if (way) zoomTo(zoom * 1.5 ** way); else place(1, 0, 0); };
  const setApart = () => { apart = !apart; open(current); };
  const keys = {
    "m": () => toggle(current), "s": setApart, "+": () => zoomBy(1), "=": () => zoomBy(1), "-": () => zoomBy(-1), "0": () => zoomBy(0),
    "ArrowLeft": () => step(-1), "ArrowRight": () => step(1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    if (large.open && keys[event.key]) { event.preventDefault(); keys[event.key](); }
    else if (!large.open && event.key === "/") { event.preventDefault(); search.focus(); }
  });
  const reveal = () => {  // a dot of the chart was chosen: its card must not be filtered away
    const card = location.hash && document.getElementById(location.hash.slice(1));
    if (!card || !card.hidden) return;
    search.value = ""; kind.value = ""; for (const field of areas) field.value = ""; chips[0].click(); card.scrollIntoView();
  };
  const arrive = () => {  // a link may name a threshold: index.html#threshold=-3
    const asked = /^#threshold=(.+)$/.exec(location.hash);
    const opened = /^#open-(\d+)(-apart)?$/.exec(location.hash);  // and an image, side by side: index.html#open-3-apart
    if (opened && find(`#image-${opened[1]}`)) { apart = !!opened[2]; open(find(`#image-${opened[1]}`)); return; }
    if (decide && asked && isFinite(asked[1])) apply(Number(asked[1])); else reveal();
  };
  addEventListener("hashchange", arrive);
  if (decide) apply(initial);
  arrive();
})();
