import { useState } from "preact/hooks";
import { asApiError, type ApiError, type Prefix } from "../api.ts";
import { ADAPTER_FILES, adapterForm } from "../prefixes/files.ts";
import type { Session } from "../session.ts";
import { Dialog, Problem } from "../ui.tsx";

interface PublishProps {
  readonly session: Session;
  /** The prefix that the job becomes. */
  readonly name: string;
  readonly step: number;
  /** The step's own prefix. */
  readonly checkpoint: string;
  readonly onClose: () => void;
  readonly onPublished: (stored: Prefix) => void;
}

/** Registers a checkpoint's files under the name of the job's prefix. */
export function PublishDialog({ session: { api }, name, step, checkpoint, onClose, onPublished }: PublishProps) {
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const publish = async (): Promise<void> => {
    setBusy(true);
    setFailed(null);
    try {
      const folder = `/prefixes/${encodeURIComponent(checkpoint)}/adapter`;
      const files = await Promise.all(
        ADAPTER_FILES.map(async (file) => new File([await api.file(`${folder}/${file}`)], file)),
      );
      onPublished(await api.send<Prefix>("PUT", `/prefixes/${encodeURIComponent(name)}`, adapterForm(files)));
    } catch (error) {
      setFailed(asApiError(error));
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={`Publish step ${step} as ${name}?`}
      onClose={onClose}
      foot={
        <>
          <button type="button" class="btn" onClick={onClose}>
            Cancel
          </button>
          <button type="button" class="btn main" disabled={busy} onClick={() => void publish()}>
            {busy ? "Publishing…" : "Publish"}
          </button>
        </>
      }
    >
      <ul class="dots">
        <li>
          It takes the place of what <code>{name}</code> is now, if there is such a prefix. Who it is shared with stays.
        </li>
        <li>Running requests finish with what they began with.</li>
        <li>
          The checkpoint itself, <code>{checkpoint}</code>, stays as it is.
        </li>
      </ul>
      {failed !== null && <Problem what="It was not published." error={failed} />}
    </Dialog>
  );
}
