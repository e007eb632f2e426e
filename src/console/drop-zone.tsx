import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";

interface DropZoneProps {
  /** What may be dropped, as the beginning of a sentence. */
  readonly what: string;
  /** Of the button that does the same. */
  readonly choose: string;
  /** For the field behind the button. */
  readonly label: string;
  readonly multiple?: boolean;
  readonly accept?: string;
  readonly onDrop: (data: DataTransfer) => void;
  readonly onChoose: (files: readonly File[]) => void;
  /** Hints below. */
  readonly children: ComponentChildren;
}

/** Where files are dropped, or chosen with a button. */
export function DropZone({ what, choose, label, multiple = false, accept, ...props }: DropZoneProps) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        if (event.dataTransfer !== null) props.onDrop(event.dataTransfer);
      }}
    >
      <p>
        <strong>{what}</strong>, or{" "}
        <button type="button" class="btn" onClick={() => input.current?.click()}>
          {choose}
        </button>
      </p>
      {props.children}
      <input
        ref={input}
        type="file"
        multiple={multiple}
        accept={accept}
        hidden
        aria-label={label}
        onChange={({ currentTarget }) => {
          const files = [...(currentTarget.files ?? [])];
          currentTarget.value = "";
          if (files.length > 0) props.onChoose(files);
        }}
      />
    </div>
  );
}
