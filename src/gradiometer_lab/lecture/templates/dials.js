"use strict";
// The dials: every change of one simulates anew, draws, and says what is seen.
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM] = [720, 300, 54, 30];
const short = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "∞");

const scales = { power: (value) => 10 ** value, double: (value) => 2 ** value, plain: (value) => value };

function settings(form) {
  const found = {};
  for (const dial of form.querySelectorAll("input, select")) {
    if (dial.type !== "range") found[dial.name] = dial.value;
    else {
      found[dial.name] = scales[dial.dataset.scale || "plain"](Number(dial.value));
      dial.closest("label").querySelector("output").textContent = short(found[dial.name]);
      dial.setAttribute("aria-valuetext", short(found[dial.name]));
    }
  }
  return found;
}

function draw(svg, { x, y, labels }, shapes) {
  const place = {
    x: (value) => LEFT + ((value - x[0]) / (x[1] - x[0])) * (WIDTH - LEFT - 10),
    y: (value) => HEIGHT - BOTTOM - ((value - y[0]) / (y[1] - y[0])) * (HEIGHT - BOTTOM - 14),
  };
  const clamp = (value) => Math.max(Math.min(value, HEIGHT * 3), -HEIGHT * 3);
  const add = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    svg.append(made);
  };
  svg.replaceChildren();
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const value = y[0] + share * (y[1] - y[0]);
    add("line", { class: "axis", x1: LEFT, x2: WIDTH - 10, y1: place.y(value), y2: place.y(value) });
    add("text", { x: LEFT - 8, y: place.y(value) + 4, "text-anchor": "end" }, short(value));
    const along = x[0] + share * (x[1] - x[0]);
    add("text", { x: place.x(along), y: HEIGHT - 8, "text-anchor": share === 1 ? "end" : "middle" }, short(along));
  }
  for (const label of labels) add("text", { x: LEFT + 8, y: 18 }, label);
  for (const { kind, points } of shapes) {
    if (kind === "bar") {
      for (const [from, to, height] of points) {
        add("rect", { class: "bar", x: place.x(from), width: place.x(to) - place.x(from), y: place.y(height), height: place.y(0) - place.y(height) });
      }
    } else {
      const shown = points.filter(([, value]) => Number.isFinite(value));
      add("polyline", { class: kind, points: shown.map(([at, value]) => `${place.x(at).toFixed(1)},${clamp(place.y(value)).toFixed(1)}`).join(" ") });
    }
  }
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const along = (values) => values.map((value, step) => [step, value]);

const shown = {
  one_dimensional(svg, dials) {
    const { law, runs } = simulations.oneDimensional(dials);
    const spread = (sign) => along(law.map(({ mean, variance }) => mean + sign * 2 * Math.sqrt(variance)));
    const top = Math.min(Math.max(...spread(1).map(([, value]) => value), 3.5), 60);
    draw(svg, { x: [0, law.length - 1], y: [-top, top], labels: ["β"] }, [
      ...runs.slice(0, 30).map((run) => ({ kind: "path", points: along(run) })),
      ...[-1, 0, 1].map((sign) => ({ kind: "law", points: spread(sign) })),
    ]);
    const last = runs.map((run) => run[run.length - 1]), middle = average(last);
    const squares = last.map((value) => (value - middle) ** 2), seen = average(squares);
    const error = Math.sqrt(average(squares.map((square) => (square - seen) ** 2)) / squares.length);
    const exact = law[law.length - 1].variance;
    const fate = dials.schedule === "constant" && dials.rate >= 2
      ? "Beyond η = 2 there is no stationary law: the spread grows without end."
      : dials.schedule === "constant"
        ? `At a constant rate it stays at ησ²/(B(2 − η)) = ${short((dials.rate * 4) / (dials.batch * (2 - dials.rate)))}.`
        : dials.schedule === "inverse" ? "At 1/t, β is the mean of all y so far: its variance is σ²/(Bt)." : "As the rate goes to zero, the spread does too.";
    return `Variance of β at the end: predicted ${short(exact)}, measured ${short(seen)} [${short(seen - 1.96 * error)}, ${short(seen + 1.96 * error)}] over 400 runs. ${fate}`;
  },
  counterexamples(svg, dials) {
    const { path, travelled } = simulations.counterexample(dials);
    const axis = dials.example === "saddle" ? 1 : 0;
    const values = path.map((point) => point[axis]), last = values[values.length - 1];
    const low = Math.min(...values, 0), high = Math.max(...values, 1);
    draw(svg, { x: [0, values.length - 1], y: [low, high], labels: [axis ? "y (x stays at 0)" : "x"] }, [{ kind: "path only", points: along(values) }]);
    if (dials.example === "runaway") {
      const fate = dials.power > 1
        ? "Σ η stays finite even in an endless run: x stays finite, the gradient does not reach zero, and the theorem does not apply."
        : `x goes to infinity with Σ η. The gradient goes to zero, ${dials.power > 0.5 ? "as the theorem says" : "although Σ η² is infinite and the theorem does not apply"}; Φ does not converge.`;
      return `x is at ${short(last)}; x + x³/3 = ${short(last + last ** 3 / 3)} and Σ η = ${short(travelled)}. ${fate}`;
    }
    if (dials.example === "saddle") {
      const exactly = dials.power === 1 && Math.abs(dials.rate - 1) < 1e-9 ? " At η_t = 1/(t + 1) y jumps to 0 in the first step." : "";
      const fate = !(Math.abs(last) <= 1)
        ? "the rate is above 2, the edge of stability along y, so y grows"
        : dials.power > 1 && Math.abs(last) > 0.01
          ? "Σ η is finite, and the run does not reach the saddle (0, 0)"
          : Math.abs(last) > 0.01
            ? "the run is on its way to the saddle (0, 0)"
            : "the run ends at the saddle (0, 0): the gradient is zero there, and the curvature along x is −π²/2";
      return `y is at ${short(last)}, x at exactly 0: ${fate}.${exactly}`;
    }
    const swings = Math.abs(values[values.length - 1] - values[values.length - 2]);
    return dials.power === 0 && swings > 0.1
      ? `x jumps between ${short(last)} and ${short(values[values.length - 2])} without end: a limit cycle. (At η = 3: ±1.288.)`
      : `x ends at ${short(last)}: ${swings > 0.01 ? "still swinging" : "it settles"}. A constant rate above 2 causes a limit cycle; a rate that goes to zero ends it.`;
  },
  temperature(svg, dials) {
    const { places, temperature } = simulations.temperature(dials);
    const bins = 60, from = -2.2, width = 4.4 / bins, counts = new Array(bins).fill(0);
    let lost = 0;
    for (const x of places) {
      const bin = Math.floor((x - from) / width);
      if (bin >= 0 && bin < bins) counts[bin] += 1; else lost += 1;
    }
    const densities = counts.map((count) => count / (places.length * width));
    const middles = counts.map((_, bin) => from + (bin + 0.5) * width);
    const weights = middles.map((x) => Math.exp(-simulations.well.loss(x) / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0) * width;
    const law = middles.map((x, bin) => [x, weights[bin] / total]);
    const top = Math.min(Math.max(...densities, ...law.map(([, value]) => value)), 8);
    draw(svg, { x: [from, from + 4.4], y: [0, top], labels: ["density of x"] }, [
      { kind: "bar", points: densities.map((density, bin) => [from + bin * width, from + (bin + 1) * width, density]) },
      { kind: "law", points: law },
    ]);
    const right = places.filter((x) => x > 0).length / places.length;
    const away = lost ? ` ${lost} left the picture: the steps are too long for this well.` : "";
    return `T = ησ²/(2B) = ${short(temperature)}, the barrier is ${short(1 / temperature)} T high. ${short(100 * right)} % of the runs are in the right well. All started in the left one; after a long time it is 50 %.${away}`;
  },
};

for (const form of document.querySelectorAll("form[data-simulation]")) {
  const say = () => {
    form.querySelector(".said").textContent = shown[form.dataset.simulation](form.querySelector("svg"), settings(form));
  };
  form.addEventListener("input", say);
  form.addEventListener("submit", (event) => event.preventDefault());
  say();
}
