import { useRef, useState } from "preact/hooks";
import { CopyButton, Dialog, Note } from "../ui.tsx";
import type { Comparison } from "./comparison.ts";
import { asCurl, requestBody } from "./settings.ts";

export function CurlDialog({ comparison, onClose }: { comparison: Comparison; onClose: () => void }) {
  const { columns, prompt, settings, session } = comparison;
  const [place, setPlace] = useState(columns.at(columns.length > 1 ? 1 : 0)?.place ?? 0);
  const code = useRef<HTMLPreElement>(null);
  const prefix = columns.find((column) => column.place === place)?.prefix ?? null;
  let text: string | null = null;
  try {
    text = asCurl(requestBody(prompt, prefix, settings), location.origin, session.api.keyed);
  } catch {
    // The schema is not JSON yet.
  }
  return (
    <Dialog
      title="The same request with curl"
      onClose={onClose}
      foot={text !== null && <CopyButton text={text} from={() => code.current} main />}
    >
      <div class="field">
        <label for="curl-column">Column</label>
        <select
          id="curl-column"
          value={String(place)}
          onChange={({ currentTarget }) => setPlace(Number(currentTarget.value))}
        >
          {columns.map((column) => (
            <option key={column.place} value={column.place}>
              {column.prefix ?? "base"}
            </option>
          ))}
        </select>
      </div>
      {text === null ? (
        <Note tone="bad">The JSON schema in the settings is not JSON.</Note>
      ) : (
        <pre ref={code} tabIndex={0}>
          {text}
        </pre>
      )}
      {session.api.keyed && <p class="small faint">Your key is never copied: the command reads it from PREFIXD_KEY.</p>}
    </Dialog>
  );
}
