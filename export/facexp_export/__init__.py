"""Export of a trained Keras model as a bundle of ONNX, TFLite and SavedModel files.

Each file is proved to give the trained model's answers. Entry point: `facexp_export.bundle_writer.export_run`. Nothing
heavy is imported here.
"""

# must be imported before onnxruntime, because it turns off onnxruntime's telemetry
import facexp  # noqa: F401
