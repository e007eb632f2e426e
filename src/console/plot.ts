/** A uPlot that fills its box, in the page's colours. */
import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** A CSS colour, such as "var(--ink)", as a canvas knows it, whenever the plot is drawn. */
export type Colour = (value: string) => () => string;

/**
 * @param height in pixels
 * @param options asked for once
 */
export function usePlot(
  height: number,
  data: uPlot.AlignedData,
  options: (colour: Colour) => Omit<uPlot.Options, "width" | "height">,
): RefObject<HTMLDivElement | null> {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  useEffect(() => {
    const element = box.current!;
    const probe = element.appendChild(document.createElement("i"));
    probe.hidden = true;
    const colour: Colour = (value) => () => {
      probe.style.color = value;
      return getComputedStyle(probe).color;
    };
    plot.current = new uPlot({ width: element.clientWidth, height, ...options(colour) }, [[], []], element);
    const redraw = (): void => plot.current?.redraw(false, true);
    const sizes = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height }));
    sizes.observe(element);
    const themes = new MutationObserver(redraw);
    themes.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", redraw);
    return () => {
      sizes.disconnect();
      themes.disconnect();
      scheme.removeEventListener("change", redraw);
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data));
  return box;
}
