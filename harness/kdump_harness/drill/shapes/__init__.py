"""Shapes: storage, firmware and boot of real servers, which decide whether a dump arrives."""
