import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
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
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  useEffect(() => {
    const element = box.current!;
    const colour = (name: string) => () => getComputedStyle(element).getPropertyValue(name);
    plot.current = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        padding: [2, 0, 1, 0],
        cursor: { show: false },
        legend: { show: false },
        axes: [{ show: false }, { show: false }],
        scales: {
          x: { range: (_self, _min, max) => [max - SPAN, max] },
          y: { range: (_self, _min, max) => [0, Math.max(most, max)] },
        },
        series: [
          {},
          { stroke: colour("color"), fill: colour("background-color"), width: 1.5, points: { show: false } },
        ],
      },
      [[], []],
      element,
    );
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData([[...times], [...values]]));
  return <div ref={box} class="chart" aria-hidden="true" />;
}
