"""Keras -> ONNX, TFLite and SavedModel: files that are proved to do what the trained model does, as a bundle.

Entry point: facexp_export.bundle_writer.export_run. Nothing heavy is imported here.
"""

# it keeps onnxruntime from sending anything, and so comes before it
import facexp  # noqa: F401
