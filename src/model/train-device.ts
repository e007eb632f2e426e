/** Where a training runs. */
import { DeviceError } from "../errors.ts";
import type { TrainStep } from "./train-step.ts";
import type { Device, DeviceKind } from "../runtime/device.ts";
import { DEVICES } from "../runtime/devices.ts";
import { OrtError } from "../runtime/ort-api.ts";

/** Without captured graphs: batches have all kinds of shapes, and come from the host. */
export function trainingDevice(kind: DeviceKind): Device {
  const device: Device = DEVICES[kind];
  if (device.provider === null || kind !== "cuda") return device;
  return {
    ...device,
    provider: { ...device.provider, settings: { ...device.provider.settings, enable_cuda_graph: "0" } },
  };
}

/** Before hours of work. @throws DeviceError */
export function checkDevice(step: Pick<TrainStep, "prepare">, kind: DeviceKind): void {
  if (kind === "cpu") return;
  try {
    step.prepare();
  } catch (error) {
    if (!(error instanceof OrtError)) throw error;
    throw new DeviceError(kind, error.reason.split("\n")[0]!.replace(/[^.]$/, "$&."), { cause: error });
  }
}
