/** Charts: the ticks of their axes, gaps, empty data, names that are markup, values that an axis cannot show. */
import t from "tap";
import { linearTicks, logTicks } from "../../src/reporting/axis.ts";
import { barPlot, linePlot, rowPlot } from "../../src/reporting/plot.ts";

t.test("ticks", async (t) => {
  t.same(linearTicks(10), [0, 2, 4, 6, 8, 10]);
  t.same(linearTicks(0.37), [0, 0.1, 0.2, 0.3, 0.4]);
  t.same(linearTicks(0), [0, 1]);
  t.same(logTicks(0.3, 420), [0.1, 1, 10, 100, 1000]);
});

t.test("empty data draws the axes", async (t) => {
  const [x, y] = [{ label: "x", log: true }, { label: "y" }];
  for (const svg of [
    linePlot({ title: "none", x, y, series: [{ name: "a", points: [] }] }),
    linePlot({ title: "none", x, y, series: [{ name: "a", points: [[1, null]] }] }),
    barPlot({ title: "none", y, groups: [] }),
    rowPlot({ title: "none", x: y, rows: [] }),
  ]) {
    t.match(svg, /<line /);
    t.notMatch(svg, /NaN|Infinity|undefined/);
  }
});

t.test("null splits a line, and dots are drawn only where asked for", async (t) => {
  const points = [
    [0, 1],
    [1, null],
    [2, 3],
    [3, 4],
  ] as const;
  const drawn = (marks: "line" | "dots" | "both"): [lines: number, dots: number] => {
    const svg = linePlot({ title: "gap", x: { label: "" }, y: { label: "" }, series: [{ name: "a", marks, points }] });
    return [svg.split("<polyline").length - 1, svg.split("<circle").length - 1];
  };
  t.same(drawn("line"), [2, 0]);
  t.same(drawn("dots"), [0, 3]);
  t.same(drawn("both"), [2, 3]);
});

t.test("titles and names are escaped, long names shortened", async (t) => {
  const name = `<&>"${"n".repeat(40)}`;
  for (const svg of [
    linePlot({ title: name, x: { label: name }, y: { label: name }, series: [{ name, points: [[0, 1]] }] }),
    barPlot({ title: name, y: { label: name }, groups: [{ name, bars: [{ name, value: 1 }] }] }),
    rowPlot({ title: name, x: { label: name }, rows: [{ name, group: name, value: 1 }] }),
  ]) {
    t.ok(svg.includes("<title>&lt;&amp;&gt;&quot;nnn"));
    t.notMatch(svg, /<&|&>/);
    t.match(svg, /text-anchor="start">&lt;&amp;&gt;&quot;n{17}…</);
  }
});

t.test("a value that an axis cannot show is an error that names the axis", async (t) => {
  const plot =
    (x: number, y: number, log = false) =>
    (): string =>
      linePlot({
        title: "",
        x: { label: "ms", log },
        y: { label: "share" },
        series: [{ name: "a", points: [[x, y]] }],
      });
  t.throws(plot(0, 1, true), { message: 'a value too small for the axis "ms": 0' });
  t.throws(plot(-1, 1), { message: 'a value too small for the axis "ms": -1' });
  t.throws(plot(1, NaN), { message: 'the axis "share" cannot show NaN' });
});
