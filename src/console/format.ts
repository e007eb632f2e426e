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

/** A log probability in percent. */
export function percent(logprob: number): string {
  const value = 100 * Math.exp(logprob);
  return value >= 99.95 ? "100 %" : value >= 0.1 ? `${value.toFixed(1)} %` : "< 0.1 %";
}

const moment = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  year: "numeric",
  hour: "2-digit",
  minute: "2-digit",
});
export const date = (iso: string): string => moment.format(new Date(iso));
export const clock = (at: Date): string => at.toTimeString().slice(0, 8);
