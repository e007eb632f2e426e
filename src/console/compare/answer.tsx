/** A streamed answer: tokens tinted by their probability. One stop of the Tab key; arrows walk its tokens. */
import { Component } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { percent } from "../format.ts";
import { Meter } from "../ui.tsx";
import type { Run, Token } from "./run.ts";

/** Distance in pixels from the end at which new tokens scroll into view. */
const NEAR_END = 24;
const TIP_WIDTH = 248;

const tintOf = (logprob: number): string => {
  const p = Math.exp(logprob);
  return p >= 0.9 ? "" : p >= 0.5 ? "p50" : p >= 0.2 ? "p20" : "p0";
};
const named = (text: string): string =>
  text === "" ? "end of text" : text.trim() === "" ? JSON.stringify(text) : text;

interface Open {
  readonly token: Token;
  readonly left: number;
  readonly top: number;
}

interface AnswerProps {
  readonly run: Run;
  readonly label: string;
  /** Of a replay; null: now. */
  readonly moment: number | null;
}

export function Answer({ run, label, moment }: AnswerProps) {
  const box = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [at, setAt] = useState(0);
  const [open, setOpen] = useState<Open | null>(null);
  const tokens = run.tokensAt(moment);
  const over = run.over && tokens.length === run.tokens.length;
  useLayoutEffect(() => {
    if (follows.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [tokens.length]);
  const show = (target: EventTarget | null): void => {
    const element = target instanceof HTMLElement ? target.closest<HTMLElement>("[data-token]") : null;
    const token = tokens[Number(element?.dataset["token"])];
    if (element === null || token === undefined) return setOpen(null);
    const { left, bottom } = element.getBoundingClientRect();
    setOpen({ token, left: Math.max(8, Math.min(left, innerWidth - TIP_WIDTH - 8)), top: bottom + 6 });
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (event.key === "Escape") setOpen(null);
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(tokens.length - 1, to));
    setAt(next);
    box.current?.querySelector<HTMLElement>(`[data-token="${next}"]`)?.focus();
  };
  return (
    <>
      <div
        ref={box}
        class="answer mono"
        role="toolbar"
        aria-label={`Tokens of ${label}`}
        aria-busy={!over}
        onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
          follows.current = scrollHeight - scrollTop - clientHeight < NEAR_END;
          setOpen(null);
        }}
        onMouseOver={({ target }) => show(target)}
        onMouseLeave={() => setOpen(null)}
        onFocusIn={({ target }) => show(target)}
        onFocusOut={() => setOpen(null)}
        onKeyDown={onKeyDown}
      >
        {tokens.map((token, i) => (
          <TokenView key={i} index={i} token={token} stop={i === Math.min(at, tokens.length - 1)} />
        ))}
        {!over && <i class="caret" />}
        {over && run.finish !== "eos" && <span class="tag">{run.finish ?? run.state}</span>}
      </div>
      {open !== null && <Alternatives {...open} />}
    </>
  );
}

interface TokenProps {
  readonly token: Token;
  readonly index: number;
  /** Where Tab stops. */
  readonly stop: boolean;
}

/** Drawn once, not with every token that follows. */
class TokenView extends Component<TokenProps> {
  override shouldComponentUpdate({ token, stop }: TokenProps): boolean {
    return token !== this.props.token || stop !== this.props.stop;
  }

  render({ token: { text, logprob, alternatives, end }, index, stop }: TokenProps) {
    // The space before a word stays outside the tint, which then hugs the letters.
    const space = /^ ./.test(text) ? " " : "";
    const next = alternatives.find(({ token: other }) => other !== text);
    const label = `${named(text)}, ${percent(logprob)}${next ? `; else ${named(next.token)}, ${percent(next.logprob)}` : ""}`;
    return (
      <>
        {index > 0 && space}
        <span
          class={end ? "token end-mark" : `token ${tintOf(logprob)}`}
          role="button"
          tabIndex={stop ? 0 : -1}
          data-token={index}
          aria-label={label}
        >
          {end ? "end" : text.slice(space.length)}
        </span>
      </>
    );
  }
}

function Alternatives({ token: { text, logprob, alternatives, end }, left, top }: Open) {
  return (
    <div class="tip" role="tooltip" style={{ left: `${left}px`, top: `${top}px` }}>
      <p>
        <code>{end ? "end of text" : JSON.stringify(text)}</code> {percent(logprob)}
      </p>
      <ol>
        {alternatives.map(({ token, logprob: one }) => (
          <li key={token}>
            <code class="cut">{named(token)}</code>
            <Meter part={Math.exp(one)} />
            <span class="num">{percent(one)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}
