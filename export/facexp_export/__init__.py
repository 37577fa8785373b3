"""Keras -> ONNX: float32 and int8 files that are proved to do what the trained model does, written as a bundle.

Entry point: facexp_export.bundle_writer.export_run. Nothing heavy is imported here.
"""
