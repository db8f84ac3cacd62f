"""Moving blobs through a broker that may drop anything: the receiver pulls, the holder only answers.

Four small machines, without clock and without I/O (`now` is any clock that does not go back, in seconds):

    Receiver    gets one blob: carousel first, then pulls what is missing, a window of chunks at a time
    Sender      holds blobs and answers pulls, each peer in turn, at most a window in flight
    Carousel    broadcasts each segment once, paced by the broker's PUBACK and by a rate
    Admission   lets at most so many uploads of so many bytes run at once, first come first served

A device fetches a segment like this (the aggregator fetches an update the same way, without `listen_s`):

    receiver = Receiver(note.manifest, proven_bitmap(note.manifest, saved_bitmap, read), listen_s=2.0)
    def perform(actions):
        for action in actions:
            match action:
                case Ask(ranges):         publish(topics.pull(me), encode(Pull(blob_id, ranges)))
                case Write(offset, data): file.pwrite(data, offset)       # before the MQTT ack of the chunk
                case Complete():          file.sync(); finished()
                case GaveUp(reason):      failed(reason)
    perform(receiver.start(now))                         # and then, whatever comes:
    perform(receiver.take(parse_chunk(payload), now))    # a chunk, from the carousel or for us; ack it afterwards
    perform(receiver.tick(now))                          # when receiver.due has come (None: nothing to wait for)
    receiver.disconnected(); perform(receiver.connected(now, session_present))
    if a second has passed: file.sync(); save(receiver.bitmap())          # resume after a kill

The holder:

    sender.hold(manifest); sender.pull(device, pull)     # Pulled.MANIFEST: send the manifest; UNKNOWN: say nothing
    while send := sender.next():                         # and again after each PUBACK
        publish(topics.repair(send.peer), chunk_payload(send.blob_id, send.index, read(send.start, send.stop)))
        # on its PUBACK: sender.sent(send)
"""

from mhfl_mq.protocol.transfer_admission import Admission, Answer, Turn, upload_cost
from mhfl_mq.protocol.transfer_carousel import Carousel, Cast
from mhfl_mq.protocol.transfer_receiver import Action, Ask, Complete, GaveUp, Receiver, Write
from mhfl_mq.protocol.transfer_sender import Pulled, Send, Sender

__all__ = [
    "Action",
    "Admission",
    "Answer",
    "Ask",
    "Carousel",
    "Cast",
    "Complete",
    "GaveUp",
    "Pulled",
    "Receiver",
    "Send",
    "Sender",
    "Turn",
    "Write",
    "upload_cost",
]
