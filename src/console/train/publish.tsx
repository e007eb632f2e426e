import type { Api, Prefix } from "../api.ts";
import { ADAPTER_FILES, adapterForm } from "../prefixes/files.ts";
import type { Session } from "../session.ts";
import { Confirm } from "../ui.tsx";

interface PublishProps {
  readonly session: Session;
  /** The prefix that the job becomes. */
  readonly name: string;
  readonly step: number;
  /** The step's own prefix. */
  readonly checkpoint: string;
  /** Triggers were searched for, and the checkpoint is a hard prompt. */
  readonly isPrompt: boolean;
  readonly onClose: () => void;
  readonly onPublished: () => void;
}

/** Registers a checkpoint's files under the name of the job's prefix. */
export function PublishDialog({ session: { api }, name, step, checkpoint, isPrompt, ...props }: PublishProps) {
  return (
    <Confirm
      title={`Publish step ${step} as ${name}?`}
      action="Publish"
      doing="Publishing…"
      failure="It was not published."
      onConfirm={async () => {
        const folder = `/prefixes/${encodeURIComponent(checkpoint)}/adapter`;
        const body = await (isPrompt ? promptOf(api, folder) : adapterOf(api, folder));
        await api.send<Prefix>("PUT", `/prefixes/${encodeURIComponent(name)}`, body);
        props.onPublished();
      }}
      onClose={props.onClose}
    >
      <li>
        It takes the place of what <code>{name}</code> is now, if there is such a prefix. Who it is shared with stays.
      </li>
      <li>Running requests finish with what they began with.</li>
      <li>
        The checkpoint itself, <code>{checkpoint}</code>, stays as it is.
      </li>
    </Confirm>
  );
}

async function adapterOf(api: Api, folder: string): Promise<FormData> {
  const files = ADAPTER_FILES.map(async (file) => new File([await api.file(`${folder}/${file}`)], file));
  return adapterForm(await Promise.all(files));
}

/** The server takes a text or ids, and tokenises a text as it was. */
async function promptOf(api: Api, folder: string): Promise<object> {
  const { text, token_ids } = await api.get<{ text?: string; token_ids: number[] }>(`${folder}/prompt.json`);
  return text === undefined ? { token_ids } : { text };
}
