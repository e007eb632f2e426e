/** The files of an adapter, from what was dropped or chosen. */
export const ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"] as const;

export interface Chosen {
  /** The folder's name, as a proposal for the prefix's. */
  readonly name: string;
  readonly files: readonly File[];
}

/** Of a folder, or of files by themselves. Folders in folders are left out. */
export async function dropped(data: DataTransfer): Promise<Chosen> {
  const entries = [...data.items].flatMap((item) => item.webkitGetAsEntry() ?? []);
  const folder = entries.find((entry) => entry.isDirectory) as FileSystemDirectoryEntry | undefined;
  if (folder === undefined) return { name: "", files: [...data.files] };
  const within = (await allOf(folder.createReader())).filter((entry) => entry.isFile) as FileSystemFileEntry[];
  const files = await Promise.all(
    within.map((entry) => new Promise<File>((resolve, reject) => entry.file(resolve, reject))),
  );
  return { name: folder.name, files };
}

/** A reader gives a folder's entries in pieces, the last one empty. */
async function allOf(reader: FileSystemDirectoryReader): Promise<FileSystemEntry[]> {
  const all: FileSystemEntry[] = [];
  for (;;) {
    const piece = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (piece.length === 0) return all;
    all.push(...piece);
  }
}

/** What `PUT /prefixes/{id}` takes. Other files of the folder stay here. */
export function adapterForm(files: readonly File[]): FormData {
  const form = new FormData();
  for (const name of ADAPTER_FILES) {
    const file = files.find((one) => one.name === name);
    if (file !== undefined) form.append(name, file, name);
  }
  return form;
}
