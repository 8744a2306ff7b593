"use strict";
(() => {
  const OPTIONS = { actions: false, renderer: "svg", ast: true, tooltip: { theme: "custom" } };
  let views = [];
  let span = null;

  // Draws every chart of the page anew; what was zoomed into stays so.
  async function draw(specs) {
    const drawn = [];
    for (const view of views) view.finalize();
    for (const place of document.querySelectorAll("[data-chart]")) {
      const spec = specs[place.dataset.chart];
      const { view } = await vegaEmbed(place, spec, OPTIONS);
      if (spec.params?.some((param) => param.name === "span")) {
        drawn.push(view);
        place.classList.add("along-steps");
        selectByDragging(place, view);
      }
    }
    views = drawn;
    const form = document.getElementById("span");
    if (form) {
      listen(form);
      form.hidden = !views.length;
      if (views.length) show(span);
    }
    for (const button of document.querySelectorAll("button.download")) {
      button.hidden = false;
      button.addEventListener("click", () => download(button));
    }
  }

  // One span of steps for every chart: null is the whole run.
  function show(chosen) {
    const form = document.getElementById("span");
    const last = Number(form.dataset.steps);
    const [from, to] = form.querySelectorAll("input");
    span = chosen;
    const shown = span ?? [-0.012 * last, 1.012 * last];
    from.value = Math.max(Math.round(shown[0]), 0);
    to.value = Math.min(Math.round(shown[1]), last);
    form.querySelector("button").disabled = span === null;
    for (const view of views) view.signal("span", shown).runAsync();
  }

  function listen(form) {
    const [from, to] = form.querySelectorAll("input");
    form.addEventListener("change", () => {
      const [low, high] = [from.valueAsNumber, to.valueAsNumber];
      if (low < high) show([low, high]);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelector("button").addEventListener("click", () => show(null));
  }

  function selectByDragging(place, view) {
    const selection = document.createElement("div");
    selection.className = "selection";
    let start = null;
    const within = (event) => {
      const left = place.getBoundingClientRect().left;
      return Math.min(Math.max(event.clientX - left - view.origin()[0], 0), view.width());
    };
    place.onpointerdown = (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      start = within(event);
      place.setPointerCapture(event.pointerId);
      event.preventDefault();
    };
    place.onpointermove = (event) => {
      if (start === null) return;
      const [low, high] = [start, within(event)].sort((a, b) => a - b);
      Object.assign(selection.style, { left: `${low + view.origin()[0]}px`, width: `${high - low}px` });
      place.append(selection);
    };
    place.onpointerup = (event) => {
      if (start === null) return;
      const [low, high] = [start, within(event)].sort((a, b) => a - b);
      start = null;
      selection.remove();
      if (high - low > 6) show([low, high].map((x) => view.scale("x").invert(x)));
    };
    place.onpointercancel = () => { start = null; selection.remove(); };
    place.ondblclick = () => show(null);
  }

  // The tables of the page are what is downloaded: what is seen is what is had.
  function download(button) {
    const { table, everyTable } = button.dataset;
    const text = everyTable ? JSON.stringify(everything(), null, 1) : csv(button.previousElementSibling);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: everyTable ? "application/json" : "text/csv" }));
    link.download = everyTable ? "numbers.json" : `${table}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const cells = (row) => [...row.children].map((cell) => cell.textContent);
  const rows = (place) => [...place.querySelectorAll("tr")].map(cells);
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = (place) => rows(place).map((row) => row.map(quoted).join(",") + "\r\n").join("");

  function everything() {
    const tables = {};
    for (const button of document.querySelectorAll("[data-table]")) {
      const [columns, ...values] = rows(button.previousElementSibling);
      tables[button.dataset.table] = { columns, rows: values };
    }
    return { verdict: document.querySelector("h1").textContent, tables };
  }

  window.gradiometer = { draw };
  draw(JSON.parse(document.getElementById("charts").textContent));
})();
