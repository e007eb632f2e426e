import { useRef, useState } from "preact/hooks";
import { CopyButton, Dialog, Note, Segments } from "../ui.tsx";
import { asCode, LANGUAGES, type Language } from "./code.ts";
import type { Comparison } from "./comparison.ts";
import { requestBody } from "./settings.ts";

export function CodeDialog({ comparison, onClose }: { comparison: Comparison; onClose: () => void }) {
  const { columns, prompt, settings, session } = comparison;
  const [place, setPlace] = useState(columns.at(columns.length > 1 ? 1 : 0)?.place ?? 0);
  const [language, setLanguage] = useState<Language>("curl");
  const code = useRef<HTMLPreElement>(null);
  const prefix = columns.find((column) => column.place === place)?.prefix ?? null;
  let text: string | null = null;
  try {
    text = asCode(language, requestBody(prompt, prefix, settings), settings, {
      origin: location.origin,
      keyed: session.api.keyed,
      base: session.model.model,
    });
  } catch {
    // The schema is not JSON yet.
  }
  return (
    <Dialog
      title="The same request as code"
      onClose={onClose}
      foot={text !== null && <CopyButton text={text} from={() => code.current} main />}
    >
      <div class="row bottom">
        <Segments label="Language" options={LANGUAGES} value={language} onValue={setLanguage} />
        <div class="field grow">
          <label for="code-column">Column</label>
          <select
            id="code-column"
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
      </div>
      {text === null ? (
        <Note tone="bad">The JSON schema in the settings is not JSON.</Note>
      ) : (
        <pre ref={code} tabIndex={0}>
          {text}
        </pre>
      )}
      {session.api.keyed && <p class="small faint">Your key is never copied: the code reads it from PREFIXD_KEY.</p>}
    </Dialog>
  );
}
