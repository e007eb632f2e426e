/**
 * Milliseconds. npm and npx forward a signal that a terminal's Ctrl-C has already sent to the whole group: two within
 * this time count as one.
 */
const SAME_SIGNAL_MS = 1_000;

export type StopSignal = "SIGINT" | "SIGTERM";

/**
 * Calls `first` on the first SIGINT or SIGTERM and `again` on the next one: the sender does not want to wait. Returns a
 * function that removes the listeners.
 */
export function onStopSignals(first: (signal: StopSignal) => void, again: (signal: StopSignal) => void): () => void {
  const signals: readonly StopSignal[] = ["SIGINT", "SIGTERM"];
  let [stopped, firstAt] = [false, 0];
  const listener = (signal: StopSignal): void => {
    if (stopped) {
      if (performance.now() - firstAt > SAME_SIGNAL_MS) again(signal);
      return;
    }
    [stopped, firstAt] = [true, performance.now()];
    first(signal);
  };
  for (const signal of signals) process.on(signal, listener);
  return () => signals.forEach((signal) => process.off(signal, listener));
}
