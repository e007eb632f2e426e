/** Lists that are searched. */
import { useEffect, useRef } from "preact/hooks";
import { count } from "./format.ts";

/** Rows of a list that are shown. */
export const SHOWN = 500;

interface SearchProps {
  readonly label: string;
  readonly placeholder: string;
  readonly value: string;
  readonly onValue: (value: string) => void;
}

/** A field that "/" leads to, from anywhere but another field. */
export function Search({ label, placeholder, value, onValue }: SearchProps) {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const { target } = event;
      if (event.key !== "/" || (target instanceof HTMLElement && target.matches("input, textarea, select"))) return;
      event.preventDefault();
      field.current?.focus();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return (
    <input
      ref={field}
      class="end find"
      type="search"
      aria-label={label}
      placeholder={placeholder}
      aria-keyshortcuts="/"
      value={value}
      onInput={({ currentTarget }) => onValue(currentTarget.value)}
    />
  );
}

/** Below a list that has more rows than are shown. */
export function MoreRows({ length }: { length: number }) {
  return length > SHOWN ? <p class="panel-body small faint">The first {count(SHOWN)}: search for the others.</p> : null;
}
