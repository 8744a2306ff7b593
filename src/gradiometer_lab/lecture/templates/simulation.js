"use strict";
// The lecture's simulations: pure functions of their settings, the same as the library's (the test suite holds them to it).
const simulations = (() => {
  // Independent standard normal numbers from a seed: mulberry32 and the polar method.
  function normals(seed) {
    let state = seed >>> 0;
    let spare = null;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
    return () => {
      if (spare !== null) {
        const kept = spare;
        spare = null;
        return kept;
      }
      for (;;) {
        const x = 2 * uniform() - 1, y = 2 * uniform() - 1, square = x * x + y * y;
        if (square > 0 && square < 1) {
          const factor = Math.sqrt((-2 * Math.log(square)) / square);
          spare = y * factor;
          return x * factor;
        }
      }
    };
  }

  function rates({ rate, schedule, steps }) {
    const shapes = { constant: () => rate, inverse: (t) => 1 / (t + 1), linear: (t) => rate * (1 - t / steps) };
    return Array.from({ length: steps }, (_, t) => shapes[schedule](t));
  }

  // β ← β − η(β − mean of the batch): exact mean and variance at every step, and the runs.
  function oneDimensional({ rate, batch, schedule, steps = 200, chains = 400, start = 3, variance = 4, seed = 1 }) {
    const normal = normals(seed), sd = Math.sqrt(variance / batch);
    const etas = rates({ rate, schedule, steps });
    const law = [{ mean: start, variance: 0 }];
    const runs = Array.from({ length: chains }, () => [start]);
    etas.forEach((eta, t) => {
      const before = law[t];
      law.push({
        mean: (1 - eta) * before.mean,
        variance: (1 - eta) ** 2 * before.variance + (eta * eta * variance) / batch,
      });
      for (const run of runs) run.push(run[t] - eta * (run[t] - sd * normal()));
    });
    return { law, runs };
  }

  // Plain gradient descent without noise at η₀/(t + 1)^p, on losses whose fate is known.
  const losses = {
    runaway: { start: [0], gradient: ([x]) => [-1 / (1 + x * x)] },
    saddle: { start: [0, 1], gradient: ([x, y]) => [(-Math.PI / 2) * Math.sin(Math.PI * x), y] },
    cycle: { start: [1], gradient: ([x]) => [Math.tanh(x)] },
  };
  function counterexample({ example, rate, power, steps = 400 }) {
    const { start, gradient } = losses[example];
    const path = [start];
    let travelled = 0;
    for (let t = 0; t < steps; t++) {
      const eta = rate * (t + 1) ** -power;
      const slope = gradient(path[t]);
      travelled += eta;
      path.push(path[t].map((value, axis) => value - eta * slope[axis]));
    }
    return { path, travelled };
  }

  // L(x) = (x² − 1)²: minima at ±1, a barrier of height 1 between them.
  const well = { loss: (x) => (x * x - 1) ** 2, gradient: (x) => 4 * x * (x * x - 1) };
  function temperature({ rate, batch, variance, steps = 2000, chains = 500, seed = 2 }) {
    const normal = normals(seed), sd = Math.sqrt(variance / batch);
    const places = new Float64Array(chains).fill(-1);
    for (let t = 0; t < steps; t++) {
      for (let k = 0; k < chains; k++) places[k] -= rate * (well.gradient(places[k]) + sd * normal());
    }
    return { places: Array.from(places), temperature: (rate * variance) / (2 * batch) };
  }

  return { oneDimensional, counterexample, temperature, well, losses, rates };
})();
