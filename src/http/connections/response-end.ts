/** The end of a response, whether the client got all of it or left. */
import type { Socket } from "node:net";
import type { FastifyReply } from "fastify";

/** Callbacks for a connection's end, for each of its unfinished requests. */
const unanswered = new WeakMap<Socket, Set<() => void>>();

/**
 * Calls back once: after the last byte of the response, or when the connection is gone. For a response queued behind
 * another on its connection (pipelining), Node emits neither event.
 */
export function whenOver(reply: FastifyReply, callback: () => void): void {
  const { socket } = reply.request.raw;
  const others = unanswered.get(socket);
  const callbacks = others ?? new Set();
  const over = (): void => {
    if (!callbacks.delete(over)) return;
    reply.raw.off("close", over);
    callback();
  };
  callbacks.add(over);
  reply.raw.once("close", over);
  if (others !== undefined) return;
  unanswered.set(socket, callbacks);
  socket.once("close", () => callbacks.forEach((call) => call()));
}

/** Resolves after the last byte of the response, or when the connection is gone. */
export function answered(reply: FastifyReply): Promise<void> {
  if (isGone(reply)) return Promise.resolve();
  return new Promise((resolve) => whenOver(reply, resolve));
}

function isGone(reply: FastifyReply): boolean {
  return reply.raw.destroyed || reply.request.raw.socket.destroyed;
}

/** A controller that aborts with "disconnected" if the client leaves before the response is complete. */
export function abortOnDisconnect(reply: FastifyReply): AbortController {
  const controller = new AbortController();
  const onOver = (): void => {
    if (!reply.raw.writableFinished) controller.abort("disconnected");
  };
  if (isGone(reply)) onOver();
  else whenOver(reply, onOver);
  return controller;
}
