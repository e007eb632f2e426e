/** Line and bar charts as plain SVG text for docs/reference/plots/: no library, grey axes and mid-tone colours that read on light and on dark pages. */
import { mkdirSync, writeFileSync } from "node:fs";
import { escape, logTicks, ticks } from "../../src/load/report/svg.ts";

const FOLDER = new URL("../../docs/reference/plots/", import.meta.url);
const WIDTH = 720;
const HEIGHT = 400;
const LEFT = 72;
const TOP = 44;
const BOTTOM = 56;
const LEGEND = 170;
const PLOT_WIDTH = WIDTH - LEFT - LEGEND;
const PLOT_HEIGHT = HEIGHT - TOP - BOTTOM;
const INK = "#808080";
const COLOURS = ["#2f81c7", "#d9822b", "#3a9d5d", "#b5489a", "#c2452d", "#7a6bd0", "#8a8a2c", "#2a9d9d"];

interface Axis {
  readonly label: string;
  /** Powers of ten instead of equal steps; every value must then be above 0. */
  readonly log?: boolean;
}

export interface LinePlot {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly { readonly name: string; readonly points: readonly (readonly [x: number, y: number])[] }[];
}

export interface BarPlot {
  readonly title: string;
  readonly y: Axis;
  readonly groups: readonly {
    readonly name: string;
    readonly bars: readonly { readonly name: string; readonly value: number }[];
  }[];
}

/** One line with dots for each series. A linear axis starts at 0, a logarithmic one at the smallest value. */
export function linePlot({ title, x, y, series }: LinePlot): string {
  const points = series.flatMap((line) => line.points);
  const across = scale(
    x,
    points.map(([at]) => at),
    LEFT,
    LEFT + PLOT_WIDTH,
  );
  const up = scale(
    y,
    points.map(([, value]) => value),
    TOP + PLOT_HEIGHT,
    TOP,
  );
  const lines = series.flatMap(({ points }, index) => {
    const colour = COLOURS[index % COLOURS.length]!;
    const places = points.map(([at, value]) => [across.place(at), up.place(value)] as const);
    const path = places.map(([left, top]) => `${left.toFixed(1)},${top.toFixed(1)}`).join(" ");
    const dots = places.map(
      ([left, top]) => `<circle cx="${left.toFixed(1)}" cy="${top.toFixed(1)}" r="3" fill="${colour}"/>`,
    );
    return [`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`, ...dots];
  });
  const marks = across.ticks.flatMap((tick) => {
    const left = across.place(tick).toFixed(1);
    return [
      `<line x1="${left}" x2="${left}" y1="${TOP + PLOT_HEIGHT}" y2="${TOP + PLOT_HEIGHT + 4}" stroke="${INK}"/>`,
      label(left, TOP + PLOT_HEIGHT + 18, tickText(tick)),
    ];
  });
  return svg(
    title,
    x.label,
    y.label,
    up,
    series.map(({ name }) => name),
    [...marks, ...lines],
  );
}

/** Bars side by side in groups; bars of the same name share a colour and one line of the legend. */
export function barPlot({ title, y, groups }: BarPlot): string {
  const names = [...new Set(groups.flatMap(({ bars }) => bars.map(({ name }) => name)))];
  const values = groups.flatMap(({ bars }) => bars.map(({ value }) => value));
  const up = scale(y, values, TOP + PLOT_HEIGHT, TOP);
  const groupWidth = PLOT_WIDTH / Math.max(1, groups.length);
  const floor = TOP + PLOT_HEIGHT;
  const shapes = groups.flatMap(({ name, bars }, index) => {
    const width = (groupWidth * 0.84) / Math.max(1, bars.length);
    const start = LEFT + index * groupWidth + groupWidth * 0.08;
    const drawn = bars.flatMap(({ name: bar, value }, place) => {
      const top = up.place(value);
      const left = start + place * width;
      const box = `x="${left.toFixed(1)}" y="${top.toFixed(1)}" width="${Math.max(1, width - 2).toFixed(1)}" height="${(floor - top).toFixed(1)}"`;
      const rect = `<rect ${box} fill="${COLOURS[names.indexOf(bar) % COLOURS.length]}"><title>${escape(`${name}, ${bar}: ${tickText(value)}`)}</title></rect>`;
      return width < 24
        ? [rect]
        : [rect, label((left + width / 2).toFixed(1), top - 4, tickText(value), 'font-size="10"')];
    });
    return [...drawn, label((start + groupWidth * 0.42).toFixed(1), floor + 18, name)];
  });
  return svg(title, "", y.label, up, names, shapes);
}

/** Writes docs/reference/plots/NAME.svg. */
export function writePlot(name: string, text: string): void {
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(new URL(`${name}.svg`, FOLDER), text);
}

interface Scale {
  readonly ticks: readonly number[];
  /** The pixel of a value. */
  place(value: number): number;
}

/** Maps values to pixels from..to. */
function scale({ log = false, label }: Axis, values: readonly number[], from: number, to: number): Scale {
  if (values.length === 0 || values.some((value) => !Number.isFinite(value)))
    throw new Error(`no finite values on the axis "${label}"`);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (least < 0 || (log && least === 0)) throw new Error(`a value too small for the axis "${label}": ${least}`);
  const marks = log ? logTicks(least, most) : ticks(most);
  const at = log ? Math.log10 : (value: number): number => value;
  const [low, high] = [at(marks[0]!), at(marks.at(-1)!)];
  return { ticks: marks, place: (value) => from + ((at(value) - low) / (high - low)) * (to - from) };
}

function svg(
  title: string,
  xLabel: string,
  yLabel: string,
  up: Scale,
  names: readonly string[],
  shapes: readonly string[],
): string {
  const right = LEFT + PLOT_WIDTH;
  const middle = TOP + PLOT_HEIGHT / 2;
  const grid = up.ticks.flatMap((tick) => {
    const top = up.place(tick);
    const line = `<line x1="${LEFT}" x2="${right}" y1="${top.toFixed(1)}" y2="${top.toFixed(1)}" stroke="${INK}" stroke-opacity="0.3"/>`;
    return [line, label(String(LEFT - 8), top + 4, tickText(tick), 'text-anchor="end"')];
  });
  const legend = names.flatMap((name, index) => {
    const top = TOP + 6 + index * 20;
    const box = `<rect x="${right + 16}" y="${top - 9}" width="12" height="12" fill="${COLOURS[index % COLOURS.length]}"/>`;
    return [box, label(String(right + 34), top + 1, name, 'text-anchor="start"')];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12" fill="${INK}" text-anchor="middle">`,
    `<title>${escape(title)}</title>`,
    label(String(LEFT + PLOT_WIDTH / 2), 24, title, 'font-size="14" font-weight="bold"'),
    ...grid,
    ...shapes,
    ...legend,
    label(String(LEFT + PLOT_WIDTH / 2), HEIGHT - 12, xLabel),
    label("18", middle, yLabel, `transform="rotate(-90 18 ${middle})"`),
    "</svg>",
    "",
  ].join("\n");
}

function label(left: string, top: number, text: string, attributes = ""): string {
  return `<text x="${left}" y="${top.toFixed(1)}"${attributes === "" ? "" : ` ${attributes}`}>${escape(text)}</text>`;
}

/** Three significant digits; thousands in full. */
function tickText(value: number): string {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
