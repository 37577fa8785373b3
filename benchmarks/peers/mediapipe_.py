"""mediapipe: faces and mesh, no emotions, with the model files that old wheels carry inside."""

import loop


def load():
    import cv2
    from mediapipe.python.solutions.face_mesh import FaceMesh

    cv2.setNumThreads(1)
    mesh = FaceMesh(static_image_mode=True, max_num_faces=20)

    def look(path):
        found = mesh.process(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)).multi_face_landmarks
        return len(found or ())

    return look


loop.serve(load)
