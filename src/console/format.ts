/** Figures as text. What was not measured is "–". */
const integer = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const NONE = "–";
export const count = (value: number): string => integer.format(value);
export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`;

/** Milliseconds: "0.42 ms", "12.3 ms", "1.2 s". */
export function milliseconds(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return NONE;
  if (value >= 9_950) return `${count(value / 1000)} s`;
  if (value >= 1_000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value < 1 ? 2 : value < 100 ? 1 : 0)} ms`;
}

/** Of a width that hardly changes: "0.3 s", "12 s". */
export const age = (ms: number): string => `${(ms / 1000).toFixed(ms < 9_950 ? 1 : 0)} s`;

/** Seconds: "12 s", "2 min 40 s", "3 h 5 min". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
  return minutes < 60 ? `${minutes} min ${rest} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Bytes, in a unit that leaves few digits: "445 bytes", "80.0 KiB". */
export function size(bytes: number): string {
  if (bytes < 1024) return plural(bytes, "byte");
  const power = Math.min(3, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** power).toFixed(1)} ${["", "KiB", "MiB", "GiB"][power]}`;
}

/** A log probability in percent. */
export function percent(logprob: number): string {
  const value = 100 * Math.exp(logprob);
  return value >= 99.95 ? "100 %" : value >= 0.1 ? `${value.toFixed(1)} %` : "< 0.1 %";
}

const MOMENT = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" } as const;
const [ofThisYear, ofAnyYear] = [{}, { year: "numeric" } as const].map(
  (year) => new Intl.DateTimeFormat("en-GB", { ...MOMENT, ...year }),
);
/** "28 Nov, 02:08", of another year with it. @param at ISO 8601, or Unix time in seconds */
export function date(at: string | number): string {
  const then = new Date(typeof at === "number" ? 1000 * at : at);
  return (then.getFullYear() === new Date().getFullYear() ? ofThisYear : ofAnyYear)!.format(then);
}
export const clock = (at: Date): string => at.toTimeString().slice(0, 8);
