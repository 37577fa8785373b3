"""mediapipe: faces and mesh, without emotions, with the model files that older wheels contain."""

import loop


def load():
    import cv2
    from mediapipe.python.solutions.face_mesh import FaceMesh

    cv2.setNumThreads(1)
    mesh = FaceMesh(static_image_mode=True, max_num_faces=20)

    def count_faces(path):
        found = mesh.process(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)).multi_face_landmarks
        return len(found or ())

    return count_faces


loop.serve(load)
