"use strict";
(() => {
  const OPTIONS = { actions: false, renderer: "svg", ast: true, tooltip: { theme: "custom" } };
  let views = [];
  let span = null;
  let specs = {};
  let library = null;

  // The charts' library is packed in the page. The policy of the page allows this one script by its hash.
  async function unpack() {
    const bytes = Uint8Array.from(atob(document.getElementById("library").textContent), (sign) => sign.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
  }

  // Draws the charts that can be seen; the others are drawn when the row they are in is opened.
  async function draw(given) {
    specs = given;
    for (const { view } of views) view.finalize();
    views = [];
    await drawWithin(document);
    const form = document.getElementById("span");
    if (form) listen(form);
    const all = document.getElementById("open-all");
    if (all) {
      all.hidden = false;
      all.onclick = () => openAll(all);
    }
    for (const button of document.querySelectorAll("button.copy")) {
      button.hidden = false;
      button.onclick = () => copy(button);
    }
    for (const button of document.querySelectorAll("button.download")) {
      button.hidden = false;
      button.addEventListener("click", () => download(button));
    }
  }

  // On a narrow screen a chart as high as on a wide one would be a tower.
  const narrow = matchMedia("(max-width: 32rem)");
  function fitted(spec, place) {
    return narrow.matches ? { ...spec, height: Math.min(spec.height, 0.34 * place.clientWidth) } : spec;
  }

  async function drawWithin(part) {
    const places = [...part.querySelectorAll("[data-chart]:not([data-drawn])")];
    for (const place of places.filter((place) => !place.closest("details:not([open])"))) {
      place.dataset.drawn = "";
      await (library ??= unpack());
      const spec = fitted(specs[place.dataset.chart], place);
      const config = JSON.parse(document.getElementById("chart-config").textContent);
      const { view } = await vegaEmbed(place, spec, { ...OPTIONS, config });
      const zooms = spec.params?.some((param) => param.name === "span");
      views.push({ view, zooms });
      if (zooms) {
        place.classList.add("along-steps");
        selectByDragging(place, view);
      }
    }
    const form = document.getElementById("span");
    if (form && places.length) {
      form.hidden = !views.some((each) => each.zooms);
      if (!form.hidden) show(span);
    }
  }

  // The event does not bubble, so it is caught on its way down.
  document.addEventListener("toggle", (event) => { if (event.target.open) drawWithin(event.target); }, true);

  function openAll(button) {
    const rows = [...document.querySelectorAll("#content details")];
    const open = rows.some((row) => !row.open);
    for (const row of rows) row.open = open;
    button.textContent = open ? "Close all" : "Open all";
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
    for (const { view, zooms } of views) if (zooms) view.signal("span", shown).runAsync();
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

  // A page that was opened as a file may have no clipboard: then the lines are selected and copied from there.
  async function copy(button) {
    const lines = document.getElementById(button.dataset.copy);
    let copied = false;
    try {
      await navigator.clipboard.writeText(lines.textContent);
      copied = true;
    } catch {
      getSelection().selectAllChildren(lines);
      copied = document.execCommand("copy");
      if (copied) getSelection().removeAllRanges();
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    button.setAttribute("aria-live", "polite");
    setTimeout(() => { button.textContent = "Copy"; }, 4000);
  }

  // The numbers of a chart are in its button, those of a table that is shown are in the table.
  function download(button) {
    const { table, everyTable } = button.dataset;
    const text = everyTable ? JSON.stringify(everything(), null, 1) : csv(button);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: everyTable ? "application/json" : "text/csv" }));
    link.download = everyTable ? "numbers.json" : `${table}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const cells = (row) => [...row.children].map((cell) => cell.textContent);
  function rows(button) {
    const { numbers } = button.dataset;
    return numbers ? JSON.parse(numbers) : [...button.previousElementSibling.querySelectorAll("tr")].map(cells);
  }
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = (button) => rows(button).map((row) => row.map(quoted).join(",") + "\r\n").join("");

  function everything() {
    const tables = {};
    for (const button of document.querySelectorAll("[data-table]")) {
      const [columns, ...values] = rows(button);
      tables[button.dataset.table] = { columns, rows: values };
    }
    return { verdict: document.querySelector("h1").textContent, tables };
  }

  window.gradiometer = { draw };
  draw(JSON.parse(document.getElementById("charts").textContent));
})();
