"use strict";
(async () => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const form = document.getElementById("span");
  const [from, to] = form.querySelectorAll("input");
  const whole = form.querySelector("button");
  const views = [];
  const last = Number(form.dataset.steps);
  const reach = [-0.012 * last, 1.012 * last];

  for (const place of document.querySelectorAll("[data-chart]")) {
    const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: "custom" } };
    const { view } = await vegaEmbed(place, specs[place.dataset.chart], options);
    if (specs[place.dataset.chart].params?.some((param) => param.name === "span")) {
      views.push(view);
      place.classList.add("along-steps");
      selectByDragging(place, view);
    }
  }
  if (views.length) {
    form.hidden = false;
    show(null);
  }

  // One span of steps for every chart: null is the whole run.
  function show(span) {
    const shown = span ?? reach;
    from.value = Math.max(Math.round(shown[0]), 0);
    to.value = Math.min(Math.round(shown[1]), last);
    whole.disabled = span === null;
    for (const view of views) {
      view.signal("span", shown).runAsync();
    }
  }

  function selectByDragging(place, view) {
    const selection = document.createElement("div");
    selection.className = "selection";
    let start = null;
    const within = (event) => {
      const left = place.getBoundingClientRect().left;
      return Math.min(Math.max(event.clientX - left - view.origin()[0], 0), view.width());
    };
    place.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      start = within(event);
      place.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    place.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const [low, high] = [start, within(event)].sort((a, b) => a - b);
      Object.assign(selection.style, { left: `${low + view.origin()[0]}px`, width: `${high - low}px` });
      place.append(selection);
    });
    place.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const [low, high] = [start, within(event)].sort((a, b) => a - b);
      start = null;
      selection.remove();
      if (high - low > 6) show([low, high].map((x) => view.scale("x").invert(x)));
    });
    place.addEventListener("pointercancel", () => { start = null; selection.remove(); });
    place.addEventListener("dblclick", () => show(null));
  }

  form.addEventListener("change", () => {
    const [low, high] = [from.valueAsNumber, to.valueAsNumber];
    if (low < high) show([low, high]);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  whole.addEventListener("click", () => show(null));
})();
