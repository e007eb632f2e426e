import { useState } from "preact/hooks";
import { useAction, useTurns } from "../answers.ts";
import type { Prefix } from "../api.ts";
import { DropZone } from "../drop-zone.tsx";
import { size } from "../format.ts";
import type { Session } from "../session.ts";
import { Dialog, Field, Problem } from "../ui.tsx";
import { ADAPTER_FILES, adapterForm, dropped, type Chosen } from "./files.ts";

interface UploadProps {
  readonly session: Session;
  readonly prefixes: readonly Prefix[];
  readonly onStored: (stored: Prefix) => void;
}

/** Where adapters are dropped, or chosen with a button. */
export function Upload({ session, prefixes, onStored }: UploadProps) {
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const begin = useTurns();
  /** The dialog is within the zone: what is dropped on it goes nowhere. */
  const drop = async (data: DataTransfer): Promise<void> => {
    const isNewest = begin();
    const files = await dropped(data);
    if (isNewest()) setChosen((chosen) => chosen ?? files);
  };
  return (
    <DropZone
      what="Drop the folder that PEFT's save_pretrained wrote"
      choose="choose files"
      label="Files of an adapter"
      multiple
      onDrop={(data) => void drop(data)}
      onChoose={(files) => setChosen({ name: "", files })}
    >
      <p class="small faint">{ADAPTER_FILES.join(" and ")}. Checked whole before anything is stored.</p>
      {chosen !== null && (
        <UploadDialog
          session={session}
          prefixes={prefixes}
          chosen={chosen}
          onClose={() => setChosen(null)}
          onStored={(stored) => {
            setChosen(null);
            onStored(stored);
          }}
        />
      )}
    </DropZone>
  );
}

function UploadDialog({
  session,
  prefixes,
  chosen: { name: proposed, files },
  onClose,
  onStored,
}: UploadProps & { chosen: Chosen; onClose: () => void }) {
  const [name, setName] = useState(proposed);
  const { busy, failed, act } = useAction();
  const missing = ADAPTER_FILES.filter((wanted) => files.every((file) => file.name !== wanted));
  const replaces = prefixes.find(({ id, access }) => id === name && access === "owner");
  const store = (event: Event): void => {
    event.preventDefault();
    const path = `/prefixes/${encodeURIComponent(name)}`;
    act(() => session.api.send<Prefix>("PUT", path, adapterForm(files)).then(onStored));
  };
  return (
    <Dialog
      title="Upload a prefix"
      onClose={onClose}
      fixed={busy}
      foot={
        <>
          <button type="button" class="btn" disabled={busy} onClick={onClose}>
            Cancel
          </button>
          <button type="submit" form="upload" class="btn main" disabled={busy || name === "" || missing.length > 0}>
            {busy ? "Storing…" : replaces === undefined ? "Store" : "Replace"}
          </button>
        </>
      }
    >
      <form id="upload" class="stack" onSubmit={store}>
        <Field
          label="Name"
          value={name}
          onValue={setName}
          mono
          focus
          hint={
            replaces === undefined
              ? "Letters, digits, dot, underscore and hyphen; the first a letter or a digit."
              : `Replaces ${replaces.digest.slice(0, 8)}. Running requests finish on it.`
          }
        />
        <ul class="files">
          {files.map((file) => (
            <li key={file.name}>
              <code>{file.name}</code>{" "}
              <span class="soft small">
                {size(file.size)}
                {!(ADAPTER_FILES as readonly string[]).includes(file.name) && ", not needed"}
              </span>
            </li>
          ))}
          {missing.map((file) => (
            <li key={file} class="bad">
              <code>{file}</code> is missing
            </li>
          ))}
        </ul>
        {failed !== null && <Problem what={`${name} was not stored.`} error={failed} />}
      </form>
    </Dialog>
  );
}
