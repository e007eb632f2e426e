/** Charts as standalone SVG text: no library, grey axes and mid-tone colours that read on light and dark pages. */
import { axisScale, type Axis, type AxisScale } from "./axis.ts";
import { escapeMarkup } from "./escape-markup.ts";

const WIDTH = 720;
const HEIGHT = 400;
const LEFT = 72;
const TOP = 44;
const BOTTOM = 56;
const LEGEND = 170;
/** Characters of a name that fit beside the plot area. */
const LEGEND_CHARACTERS = 22;
const PLOT_WIDTH = WIDTH - LEFT - LEGEND;
const PLOT_HEIGHT = HEIGHT - TOP - BOTTOM;
const INK = "#808080";
const COLOURS = ["#2f81c7", "#d9822b", "#3a9d5d", "#b5489a", "#c2452d", "#7a6bd0", "#8a8a2c", "#2a9d9d"];

export interface Series {
  readonly name: string;
  /** A y of null leaves a gap in the line. */
  readonly points: readonly (readonly [x: number, y: number | null])[];
  /** Default "both". */
  readonly marks?: "line" | "dots" | "both";
}

export interface LinePlot {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

export interface BarPlot {
  readonly title: string;
  readonly y: Axis;
  readonly groups: readonly {
    readonly name: string;
    readonly bars: readonly { readonly name: string; readonly value: number }[];
  }[];
}

export interface RowPlot {
  readonly title: string;
  readonly x: Axis;
  /** One horizontal bar each; rows of one group share a colour and a legend entry. */
  readonly rows: readonly { readonly name: string; readonly group: string; readonly value: number }[];
}

/**
 * Lines over two axes. A linear axis starts at 0, a logarithmic one at a power of ten. Throws for values an axis cannot
 * show.
 */
export function linePlot({ title, x, y, series }: LinePlot): string {
  const points = series.flatMap((line) => line.points.flatMap(([at, value]) => (value === null ? [] : [[at, value]])));
  const across = axisScale(
    x,
    points.map(([at]) => at!),
    LEFT,
    LEFT + PLOT_WIDTH,
  );
  const up = axisScale(
    y,
    points.map(([, value]) => value!),
    TOP + PLOT_HEIGHT,
    TOP,
  );
  const lines = series.flatMap(({ points, marks = "both" }, index) => {
    const colour = colourOf(index);
    const runs = unbrokenRuns(points).map((run) =>
      run.map(([at, value]) => [across.place(at).toFixed(1), up.place(value).toFixed(1)] as const),
    );
    const paths = runs.map((run) => {
      const path = run.map(([left, top]) => `${left},${top}`).join(" ");
      return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`;
    });
    const dots = runs.flat().map(([left, top]) => `<circle cx="${left}" cy="${top}" r="3" fill="${colour}"/>`);
    return [...(marks === "dots" ? [] : paths), ...(marks === "line" ? [] : dots)];
  });
  const floor = TOP + PLOT_HEIGHT;
  const ticks = across.ticks.flatMap((tick) => {
    const left = across.place(tick).toFixed(1);
    return [
      `<line x1="${left}" x2="${left}" y1="${floor}" y2="${floor + 4}" stroke="${INK}"/>`,
      label(left, floor + 18, tickText(tick)),
    ];
  });
  return svg(title, HEIGHT, [
    ...horizontalGrid(up),
    ...ticks,
    ...lines,
    ...legend(series.map(({ name }) => name)),
    xLabel(x.label, HEIGHT),
    yLabel(y.label),
  ]);
}

/** Bars side by side in groups; bars of the same name share a colour and a legend entry. */
export function barPlot({ title, y, groups }: BarPlot): string {
  const names = [...new Set(groups.flatMap(({ bars }) => bars.map(({ name }) => name)))];
  const values = groups.flatMap(({ bars }) => bars.map(({ value }) => value));
  const up = axisScale(y, values, TOP + PLOT_HEIGHT, TOP);
  const groupWidth = PLOT_WIDTH / Math.max(1, groups.length);
  const floor = TOP + PLOT_HEIGHT;
  const shapes = groups.flatMap(({ name, bars }, index) => {
    const width = (groupWidth * 0.84) / Math.max(1, bars.length);
    const start = LEFT + index * groupWidth + groupWidth * 0.08;
    const drawn = bars.flatMap(({ name: bar, value }, place) => {
      const top = up.place(value);
      const left = start + place * width;
      const box = `x="${left.toFixed(1)}" y="${top.toFixed(1)}" width="${Math.max(1, width - 2).toFixed(1)}" height="${(floor - top).toFixed(1)}"`;
      const rect = `<rect ${box} fill="${colourOf(names.indexOf(bar))}"><title>${escapeMarkup(`${name}, ${bar}: ${tickText(value)}`)}</title></rect>`;
      return width < 24
        ? [rect]
        : [rect, label((left + width / 2).toFixed(1), top - 4, tickText(value), 'font-size="10"')];
    });
    return [...drawn, label((start + groupWidth * 0.42).toFixed(1), floor + 18, name)];
  });
  return svg(title, HEIGHT, [...horizontalGrid(up), ...shapes, ...legend(names), xLabel("", HEIGHT), yLabel(y.label)]);
}

/** One horizontal bar a row, as high as it has rows. */
export function rowPlot({ title, x, rows }: RowPlot): string {
  const [rowHeight, left] = [18, 150];
  const floor = TOP + Math.max(1, rows.length) * rowHeight;
  const height = floor + BOTTOM;
  const across = axisScale(
    x,
    rows.map(({ value }) => value),
    left,
    LEFT + PLOT_WIDTH,
  );
  const grid = across.ticks.flatMap((tick) => {
    const at = across.place(tick).toFixed(1);
    return [
      `<line x1="${at}" x2="${at}" y1="${TOP}" y2="${floor}" stroke="${INK}" stroke-opacity="0.3"/>`,
      label(at, floor + 18, tickText(tick)),
    ];
  });
  const groups = [...new Set(rows.map(({ group }) => group))];
  const bars = rows.flatMap(({ name, group, value }, index) => {
    const top = TOP + index * rowHeight;
    const width = (across.place(value) - left).toFixed(1);
    return [
      label(String(left - 6), top + 13, shorten(name), 'text-anchor="end"'),
      `<rect x="${left}" y="${top + 3}" width="${width}" height="${rowHeight - 6}" fill="${colourOf(groups.indexOf(group))}"><title>${escapeMarkup(`${name}: ${tickText(value)}`)}</title></rect>`,
    ];
  });
  return svg(title, height, [...grid, ...bars, ...legend(groups), xLabel(x.label, height)]);
}

/** The parts of a line between its gaps. */
function unbrokenRuns(points: Series["points"]): [x: number, y: number][][] {
  const runs: [number, number][][] = [[]];
  for (const [x, y] of points)
    if (y === null) runs.push([]);
    else runs.at(-1)!.push([x, y]);
  return runs.filter((run) => run.length > 0);
}

function svg(title: string, height: number, shapes: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12" fill="${INK}" text-anchor="middle">`,
    `<title>${escapeMarkup(title)}</title>`,
    label(String(LEFT + PLOT_WIDTH / 2), 24, title, 'font-size="14" font-weight="bold"'),
    ...shapes,
    "</svg>",
    "",
  ].join("\n");
}

function horizontalGrid(up: AxisScale): string[] {
  return up.ticks.flatMap((tick) => {
    const top = up.place(tick);
    const line = `<line x1="${LEFT}" x2="${LEFT + PLOT_WIDTH}" y1="${top.toFixed(1)}" y2="${top.toFixed(1)}" stroke="${INK}" stroke-opacity="0.3"/>`;
    return [line, label(String(LEFT - 8), top + 4, tickText(tick), 'text-anchor="end"')];
  });
}

function legend(names: readonly string[]): string[] {
  const right = LEFT + PLOT_WIDTH;
  return names.flatMap((name, index) => {
    const top = TOP + 6 + index * 20;
    const box = `<rect x="${right + 16}" y="${top - 9}" width="12" height="12" fill="${colourOf(index)}"/>`;
    return [box, label(String(right + 34), top + 1, shorten(name), 'text-anchor="start"')];
  });
}

const xLabel = (text: string, height: number): string => label(String(LEFT + PLOT_WIDTH / 2), height - 12, text);

function yLabel(text: string): string {
  const middle = TOP + PLOT_HEIGHT / 2;
  return label("18", middle, text, `transform="rotate(-90 18 ${middle})"`);
}

function label(left: string, top: number, text: string, attributes = ""): string {
  return `<text x="${left}" y="${top.toFixed(1)}"${attributes === "" ? "" : ` ${attributes}`}>${escapeMarkup(text)}</text>`;
}

const colourOf = (index: number): string => COLOURS[index % COLOURS.length]!;

const shorten = (name: string): string =>
  name.length > LEGEND_CHARACTERS ? `${name.slice(0, LEGEND_CHARACTERS - 1)}…` : name;

/** Three significant digits; thousands in full. */
function tickText(value: number): string {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
