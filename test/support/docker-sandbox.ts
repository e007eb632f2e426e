/**
 * Runs commands with a folder as root file system: a container's view, made of Linux namespaces instead of a Docker
 * engine. Needs root.
 */
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";

export interface Sandbox {
  /** Absolute path of the folder that becomes `/`. */
  readonly root: string;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** User and group to run as, without capabilities; null: root. */
  readonly user: number | null;
  /** The root is read-only except for these folders and a fresh /tmp. null: everything is writable. */
  readonly writable: readonly string[] | null;
  /** Folders of this machine mounted elsewhere: cache mounts. */
  readonly binds?: readonly (readonly [from: string, to: string])[];
}

/** This machine's programs and libraries replace the base image, read-only. */
const BASE = `
set -e
root=$1; user=$2; writable=$3; cwd=$4
shift 4
mount --bind "$root" "$root"
cd "$root"
for name in bin sbin lib lib64; do [ -e "$name" ] || cp -a "/$name" "$name"; done
mkdir -p usr etc dev proc tmp root
for name in usr etc; do mount --bind "/$name" "$name"; mount -o remount,ro,bind "$name"; done
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs -o mode=1777 tmpfs tmp
while [ "$1" != -- ]; do mkdir -p "./$2"; mount --bind "$1" "./$2"; shift 2; done
shift
if [ "$writable" != all ]; then
  for name in $writable; do mount --bind "./$name" "./$name"; done
  mount -o remount,ro,bind "$root"
fi
as=
[ "$user" = root ] || as="setpriv --reuid=$user --regid=$user --clear-groups --bounding-set=-all --no-new-privs"
exec chroot "$root" $as sh -c 'cd "$0" && exec "$@"' "$cwd" "$@"
`;

/**
 * Runs a command in the sandbox as process 1, so that it receives signals as in a container. The returned process is
 * its parent: killing it ends the whole sandbox.
 */
export function spawnInSandbox(sandbox: Sandbox, command: readonly string[], stdio: StdioOptions): ChildProcess {
  const binds = (sandbox.binds ?? []).flat();
  const script = [
    sandbox.root,
    String(sandbox.user ?? "root"),
    sandbox.writable?.join(" ") ?? "all",
    sandbox.cwd,
    ...binds,
    "--",
    ...command,
  ];
  return spawn("unshare", ["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", BASE, "sandbox", ...script], {
    env: { PATH: process.env["PATH"], ...sandbox.env },
    stdio,
  });
}
