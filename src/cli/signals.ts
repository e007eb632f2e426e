/** Milliseconds. npm and npx pass a signal on to a process that a terminal's Ctrl-C has already reached: it comes twice, and means one. */
const SAME_SIGNAL_MS = 1_000;

export type StopSignal = "SIGINT" | "SIGTERM";

/**
 * Calls `first` at the first SIGINT or SIGTERM, and `again` at one that is not the same: who sends it does not want to wait. Answers what
 * takes the listeners off.
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
