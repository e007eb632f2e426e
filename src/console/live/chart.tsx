import { usePlot } from "../plot.ts";
import { SPAN } from "./history.ts";

const HEIGHT = 44;

interface ChartProps {
  /** Seconds, ascending. */
  readonly times: readonly number[];
  readonly values: readonly (number | null)[];
  /** The top of the scale, if all values are lower. */
  readonly most: number;
}

/** A line over the last minute, from zero, without axes. */
export function Chart({ times, values, most }: ChartProps) {
  const box = usePlot(HEIGHT, [[...times], [...values]], (colour) => ({
    padding: [2, 0, 1, 0],
    cursor: { show: false },
    legend: { show: false },
    axes: [{ show: false }, { show: false }],
    scales: {
      x: { range: (_self, _min, max) => [max - SPAN, max] },
      y: { range: (_self, _min, max) => [0, Math.max(most, max)] },
    },
    series: [{}, { stroke: colour("var(--ink)"), fill: colour("var(--hover)"), width: 1.5, points: { show: false } }],
  }));
  return <div ref={box} class="chart" aria-hidden="true" />;
}
