/** Prometheus' text format 0.0.4, read as strictly as its parsers do. */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}
export interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: Sample[];
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\\n]|\\.)*)"(?:,|$)/y;

/** Families by name. Throws for a line that is none, a sample without a type, and a series that comes twice. */
export function parseExposition(text: string): Map<string, Family> {
  if (!text.endsWith("\n")) throw new Error("the last line does not end");
  const families = new Map<string, Family>();
  const helps = new Map<string, string>();
  const series = new Set<string>();
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const [, kind, named, rest] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (kind === "HELP") helps.set(named!, rest!);
    else if (kind === "TYPE") {
      if (families.has(named!)) throw new Error(`${named} is declared twice`);
      families.set(named!, { type: rest!, help: helps.get(named!) ?? "", samples: [] });
    } else {
      const sample = parseSample(line);
      const { name } = sample;
      const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ""));
      if (family === undefined) throw new Error(`${name} has no type`);
      const key = `${name} ${JSON.stringify(Object.entries(sample.labels).sort())}`;
      if (series.has(key)) throw new Error(`${key} comes twice`);
      series.add(key);
      family.samples.push(sample);
    }
  }
  return families;
}

function parseSample(line: string): Sample {
  const [, name, inside = "", number] = SAMPLE.exec(line) ?? [];
  const value = number === "+Inf" ? Infinity : Number(number);
  // The mean of nothing, as prom-client writes it and Prometheus reads it.
  const isNan = number?.toLowerCase() === "nan";
  if (name === undefined || number === undefined || (Number.isNaN(value) && !isNan))
    throw new Error(`no sample: ${line}`);
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < inside.length) {
    const [, label, text] = LABEL.exec(inside) ?? [];
    if (label === undefined || text === undefined || label in labels) throw new Error(`bad labels: ${line}`);
    labels[label] = text.replace(/\\(.)/g, (_, escaped: string) => (escaped === "n" ? "\n" : escaped));
  }
  return { name, labels, value };
}
