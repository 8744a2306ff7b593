"use strict";
// Projecting: one thing at a time, and every measurement hidden until it is asked for.
// → or space goes on, ← back, Escape leaves. The mode is in the address, so that it goes along from page to page.
(() => {
  const root = document.documentElement;
  const slides = [...document.querySelectorAll("[data-slide]")];
  const status = document.querySelector(".progress");
  const boxes = [...document.querySelectorAll(".reveal")];
  const stages = slides.flatMap((slide) =>
    slide.querySelector(".reveal") ? [[slide, false], [slide, true]] : [[slide, true]]);
  let at = 0;

  function show() {
    const [slide, measured] = stages[at];
    for (const each of slides) each.classList.toggle("shown", each === slide);
    const box = slide.querySelector(".reveal");
    if (box) box.checked = measured;
    status.textContent = `${at + 1} of ${stages.length}` + (measured ? "" : " · space shows what was measured");
    window.scrollTo(0, 0);
  }

  function leave() {
    root.classList.remove("projecting");
    status.hidden = true;
    for (const box of boxes) box.checked = true;
    history.replaceState(null, "", location.pathname + location.search);
  }

  function go(by) {
    if (at + by >= 0 && at + by < stages.length) {
      at += by;
      show();
      return;
    }
    const link = document.querySelector(by > 0 ? "a[rel=next]" : "a[rel=prev]");
    if (link) location.href = link.getAttribute("href") + (by > 0 ? "#project" : "#project-last");
  }

  function follow() {
    if (!location.hash.startsWith("#project")) return;
    root.classList.add("projecting");
    status.hidden = false;
    for (const box of boxes) box.checked = false;
    at = location.hash === "#project-last" ? stages.length - 1 : 0;
    show();
  }

  document.addEventListener("keydown", (event) => {
    if (!root.classList.contains("projecting") || event.ctrlKey || event.metaKey || event.altKey) return;
    const control = event.target.closest("input:not(.reveal), select, summary, a, button");
    if (event.key === "Escape") leave();
    else if (control && event.key !== "PageDown" && event.key !== "PageUp") return;
    else if (["ArrowRight", " ", "PageDown"].includes(event.key)) go(1);
    else if (["ArrowLeft", "PageUp"].includes(event.key)) go(-1);
    else return;
    event.preventDefault();
  });
  window.addEventListener("hashchange", follow);
  follow();
})();
