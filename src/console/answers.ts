/** Answers come late: after a second click, in another order than they were asked for, or when nobody waits any more. */
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { asApiError, type ApiError } from "./api.ts";

export interface Action {
  readonly busy: boolean;
  /** Why the last one failed. */
  readonly failed: ApiError | null;
  /** Begins it, unless one is under way: of two clicks, or of Enter and a click, the first counts. */
  readonly act: (action: () => Promise<unknown>) => void;
}

/** What buttons do, one thing at a time. */
export function useAction(): Action {
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const isUnderWay = useRef(false);
  const act: Action["act"] = (action) => {
    if (isUnderWay.current) return;
    isUnderWay.current = true;
    setBusy(true);
    setFailed(null);
    void action()
      .catch((error: unknown) => setFailed(asApiError(error)))
      .finally(() => {
        isUnderWay.current = false;
        setBusy(false);
      });
  };
  return { busy, failed, act };
}

/** Turns of reading something. */
export class Turns {
  #newest = 0;

  /** Begins one, and returns what says whether its answer still counts: while no newer turn has begun. */
  begin(): () => boolean {
    const mine = ++this.#newest;
    return () => mine === this.#newest;
  }

  /** No answer counts any more. */
  end(): void {
    this.#newest = NaN;
  }
}

/** `Turns.begin`, until what asks has left the page. */
export function useTurns(): () => () => boolean {
  const turns = useRef(new Turns());
  useLayoutEffect(() => () => turns.current.end(), []);
  return () => turns.current.begin();
}
