import { useEffect, useState } from "preact/hooks";
import { useTurns } from "./answers.ts";
import type { Session } from "./session.ts";

const PERIOD_MS = 10_000;

/** What `GET /health/ready` says, asked every ten seconds. */
export function ServerState({ session: { model } }: { session: Session }) {
  const [state, setState] = useState<"ready" | "not ready" | "no answer">("ready");
  const begin = useTurns();
  useEffect(() => {
    const ask = (): void => {
      const isNewest = begin();
      fetch("/health/ready", { cache: "no-store" }).then(
        ({ ok }) => isNewest() && setState(ok ? "ready" : "not ready"),
        () => isNewest() && setState("no answer"),
      );
    };
    const timer = setInterval(ask, PERIOD_MS);
    ask();
    return () => clearInterval(timer);
  }, []);
  const tone = { ready: "ok", "not ready": "warn", "no answer": "bad" }[state];
  return (
    <span class="chip end server">
      <i class={`dot ${tone}`} />
      {model.model} · {model.device} {model.precision} · {state}
    </span>
  );
}
