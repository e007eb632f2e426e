/** What several pages are made of. */
import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useAction } from "./answers.ts";
import type { ApiError } from "./api.ts";

export type Tone = "neutral" | "ok" | "warn" | "bad";

export function Note({ tone = "neutral", children }: { tone?: Tone; children: ComponentChildren }) {
  return (
    <div class={`note ${tone}`} role={tone === "bad" ? "alert" : "status"}>
      {children}
    </div>
  );
}

/** The server's words as they came. */
export function Problem({ what, error }: { what?: string; error: ApiError }) {
  return (
    <Note tone="bad">
      <p>
        <strong>{what ?? `${error.title}.`}</strong> <span class="soft">{error.message}</span>
      </p>
      {error.code !== "" && (
        <p class="small soft">
          <code>{error.code}</code> {error.status}
          {error.requestId !== "" && (
            <>
              , request <code>{error.requestId}</code>
            </>
          )}
        </p>
      )}
    </Note>
  );
}

export interface FieldProps {
  readonly label: string;
  readonly value: string;
  readonly onValue: (value: string) => void;
  readonly hint?: string;
  readonly error?: string | null;
  readonly type?: "text" | "number" | "password";
  readonly rows?: number;
  readonly mono?: boolean;
  readonly placeholder?: string;
  readonly step?: string;
  readonly min?: string;
  readonly focus?: boolean;
}

export function Field(props: FieldProps) {
  const { label, value, onValue, hint, error = null, type = "text", rows, mono = false } = props;
  const id = useId();
  const input = useRef<HTMLInputElement & HTMLTextAreaElement>(null);
  useEffect(() => {
    if (props.focus) input.current?.focus();
  }, []);
  const common = {
    id,
    ref: input,
    value,
    class: mono ? "mono" : "",
    placeholder: props.placeholder,
    spellcheck: false,
    autocomplete: "off",
    // A dialog that opens looks for it.
    autofocus: props.focus,
    "aria-invalid": error !== null,
    "aria-describedby": hint === undefined && error === null ? undefined : `${id}-hint`,
    onInput: (event: { currentTarget: { value: string } }) => onValue(event.currentTarget.value),
  };
  // Preact's types know no input whose type is one of several.
  const attributes: object = { type, step: props.step, min: props.min };
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {rows === undefined ? <input {...common} {...attributes} /> : <textarea {...common} rows={rows} />}
      {(error !== null || hint !== undefined) && (
        <p id={`${id}-hint`} class={error !== null ? "small bad" : "small faint"}>
          {error ?? hint}
        </p>
      )}
    </div>
  );
}

interface SegmentsProps<T extends string> {
  readonly label: string;
  readonly options: Readonly<Record<T, string>>;
  readonly value: T;
  readonly onValue: (value: T) => void;
  /** The label is for screen readers only. */
  readonly bare?: boolean;
}

export function Segments<T extends string>({ label, options, value, onValue, bare = false }: SegmentsProps<T>) {
  const name = useId();
  return (
    <fieldset class="field">
      <legend class={bare ? "sr" : ""}>{label}</legend>
      <div class="seg">
        {(Object.entries(options) as [T, string][]).map(([option, text]) => (
          <label key={option}>
            <input type="radio" name={name} checked={option === value} onChange={() => onValue(option)} />
            {text}
          </label>
        ))}
      </div>
    </fieldset>
  );
}

interface DialogProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
  readonly foot?: ComponentChildren;
  /** At the window's side, for settings. */
  readonly side?: boolean;
  /** It cannot be closed. */
  readonly fixed?: boolean;
}

/** Open while it is rendered. Esc, the cross and the backdrop close it; focus goes back to where it was. */
export function Dialog({ title, onClose, children, foot, side = false, fixed = false }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const pressed = useRef(false);
  const id = useId();
  // Closed before it is removed: only then does the browser give the focus back.
  useLayoutEffect(() => {
    const element = dialog.current!;
    element.showModal();
    return () => element.close();
  }, []);
  const close = (): void => {
    if (!fixed) onClose();
  };
  return (
    <dialog
      ref={dialog}
      class={side ? "side" : ""}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      // The browser closes it unasked when Esc is pressed twice.
      onClose={() => (fixed ? dialog.current?.showModal() : dialog.current && onClose())}
      // Neither a text that is selected beyond the edge closes it, nor the second half of the click that opened it.
      onMouseDown={({ target }) => (pressed.current = target === dialog.current)}
      onClick={({ target, detail }) => pressed.current && target === dialog.current && detail < 2 && close()}
    >
      <div class="dialog-head">
        <h2 id={id} class="grow">
          {title}
        </h2>
        {!fixed && (
          <button type="button" class="btn quiet icon" aria-label="Close" onClick={close}>
            ×
          </button>
        )}
      </div>
      <div class="dialog-body">{children}</div>
      {foot && <div class="dialog-foot">{foot}</div>}
    </dialog>
  );
}

interface ConfirmProps {
  readonly title: string;
  /** What the button says, before and while it is done. */
  readonly action: string;
  readonly doing: string;
  readonly keep?: string;
  /** What must be typed, of what is about to be destroyed; absent: nothing is. */
  readonly name?: string;
  /** Closes the dialog when it resolves; what it rejects with is shown. */
  readonly onConfirm: () => Promise<unknown>;
  /** Begins what is shown then. */
  readonly failure: string;
  readonly onClose: () => void;
  /** What will happen, as a list. */
  readonly children: ComponentChildren;
}

/** Asks before something is done, and stays until it is. */
export function Confirm({ action, doing, keep = "Cancel", name, onConfirm, failure, ...props }: ConfirmProps) {
  const [typed, setTyped] = useState("");
  const { busy, failed, act } = useAction();
  return (
    <Dialog
      title={props.title}
      onClose={props.onClose}
      fixed={busy}
      foot={
        <>
          <button type="button" class="btn" disabled={busy} onClick={props.onClose}>
            {keep}
          </button>
          <button
            type="button"
            class={name === undefined ? "btn main" : "btn main danger"}
            disabled={name !== undefined && typed !== name}
            aria-disabled={busy}
            onClick={() => act(() => onConfirm().then(() => props.onClose()))}
          >
            {busy ? doing : action}
          </button>
        </>
      }
    >
      <ul class="dots">{props.children}</ul>
      {name !== undefined && <Field label={`Type ${name} to go on`} value={typed} onValue={setTyped} mono focus />}
      {failed !== null && <Problem what={failure} error={failed} />}
    </Dialog>
  );
}

/**
 * For a button whose place another one may take when it has done its work: the second half of a double click is not
 * meant for that.
 */
export const once =
  (action: () => void) =>
  ({ detail }: MouseEvent): void => {
    if (detail < 2) action();
  };

/** Gives the focus, once what has changed is drawn, to what is near by, if that which had it went away. */
export function keepFocus(near: () => HTMLElement | null): void {
  requestAnimationFrame(() => {
    if (document.activeElement === document.body) near()?.focus();
  });
}

/** Copies text; where the browser gives no clipboard (a page without TLS), selects it, to be copied by hand. */
export function CopyButton({
  text,
  from,
  main = false,
}: {
  text: string;
  from?: () => Element | null;
  main?: boolean;
}) {
  /** Of which text. */
  const [said, setSaid] = useState({ text, words: "Copy" });
  const say = (words: string): void => setSaid({ text, words });
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch {
      const element = from?.() ?? null;
      if (element !== null) getSelection()?.selectAllChildren(element);
      say(element === null ? "No clipboard" : "Press Ctrl C");
    }
  };
  return (
    <button type="button" class={main ? "btn main" : "btn tiny"} onClick={() => void copy()}>
      {said.text === text ? said.words : "Copy"}
    </button>
  );
}

export function Meter({ part }: { part: number }) {
  return (
    <span class="meter" aria-hidden="true">
      <i style={{ width: `${100 * Math.min(1, Math.max(0, part))}%` }} />
    </span>
  );
}
