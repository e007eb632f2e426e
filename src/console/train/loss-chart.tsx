import { useRef } from "preact/hooks";
import { usePlot } from "../plot.ts";
import type { Progress } from "./progress.ts";

const HEIGHT = 200;
/** Pixels for the loss axis's figures. */
const FIGURES = 44;

/** Losses by step, logarithmic: of each reported batch, and of the held-out examples. */
export function LossChart({ progress: { losses, evaluations, steps } }: { progress: Progress }) {
  const held = new Map(evaluations.map(({ step, loss }) => [step, loss]));
  const trained = new Map(losses);
  // The plot asks for it at every draw.
  const end = useRef(1);
  end.current = steps ?? 1;
  const x = [...new Set([...trained.keys(), ...held.keys()])].sort((a, b) => a - b);
  const box = usePlot(
    HEIGHT,
    [x, x.map((step) => trained.get(step) ?? null), x.map((step) => held.get(step) ?? null)],
    (colour) => {
      const axis = {
        stroke: colour("var(--ink-3)"),
        font: "11px system-ui, sans-serif",
        grid: { stroke: colour("var(--line)"), width: 1 },
        ticks: { show: false },
      };
      return {
        padding: [8, 20, 0, 0],
        cursor: { show: false },
        legend: { show: false },
        scales: {
          x: { time: false, range: (_self, _min, max) => [0, Math.max(end.current, max)] },
          y: { distr: 3, range: (_self, min, max) => around(min, max) },
        },
        axes: [
          { ...axis, size: 24, values: (_self, marks) => marks.map((mark) => (mark === 0 ? "step 0" : String(mark))) },
          {
            ...axis,
            size: FIGURES,
            splits: (self) => marksBetween(self.scales["y"]!.min!, self.scales["y"]!.max!),
            filter: (_self, marks) => marks,
            values: (_self, marks) => marks.map((mark) => String(Number(mark.toPrecision(1)))),
          },
        ],
        series: [
          {},
          { stroke: colour("var(--c0)"), width: 1.5, spanGaps: true, points: { show: false } },
          {
            stroke: colour("var(--c1)"),
            width: 2,
            spanGaps: true,
            points: { show: true, size: 7, fill: colour("var(--c1)") },
          },
        ],
      };
    },
  );
  return <div ref={box} class="losses" role="img" aria-label={described(losses, evaluations)} />;
}

const LEAST = 1e-4;

/** A range around the values, both ends above 0. */
function around(min: number | null, max: number | null): [number, number] {
  const low = Math.max(LEAST, min ?? 0.1);
  return [low / 1.2, Math.max(low * 2, max ?? 1) * 1.2];
}

/** 1, 2 and 5 times the powers of ten; powers alone over a long range. */
function marksBetween(min: number, max: number): number[] {
  const digits = max / min > 1000 ? [1] : max / min > 20 ? [1, 3] : [1, 2, 3, 5, 7];
  const marks: number[] = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power++)
    for (const digit of digits) marks.push(digit * 10 ** power);
  return marks.filter((mark) => mark >= min && mark <= max);
}

function described(losses: Progress["losses"], evaluations: Progress["evaluations"]): string {
  const [first, last, held] = [losses[0], losses.at(-1), evaluations.at(-1)];
  if (first === undefined || last === undefined) return "No losses yet";
  return `Training loss from ${first[1].toFixed(2)} at step ${first[0]} to ${last[1].toFixed(2)} at step ${last[0]}${
    held === undefined ? "" : `; held out ${held.loss.toFixed(2)} at step ${held.step}`
  }`;
}
