// All that needs no browser; tests run it in node against Python's.
export { decode, iou, suppress, type Detection, type LevelLogits } from "./decode";
export { Letterbox, resize, type Box, type Size } from "./letterbox";
export { isIntact, readMetadata, readProperties, type Metadata } from "./metadata";
export { widenWeights } from "./widen";
