"""What a reader is told beside the figures of a forecast (`chip`), and of several side by side (`targets`)."""
