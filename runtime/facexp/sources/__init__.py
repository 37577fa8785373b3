"""Where pictures come from: photos, folders, globs, lists, clips, cameras, streams and standard input.

for source in open_sources(["holiday", "clips/*.mp4", "@more.txt", "rtsp://camera/live"]):
    for shot in source.shots():
        shot.image  # BGR (H, W, 3) uint8
"""

from facexp.sources.listing import MEDIA, Listed, listed, open_sources

__all__ = ["MEDIA", "Listed", "listed", "open_sources"]
