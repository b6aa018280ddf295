"""A parametric smear: one white cell among red cells and platelets, drawn as dye concentrations, stained, and scanned.

From a cell's kind to its picture:

    kinds        what cells of a kind look like (µm, counts, contrasts), one row a kind
    morphology   cells drawn from their kind and their patient
    stain        dyes, and how a patient's smear took them up
    render       morphology → concentration of each dye at each pixel (white_cell, surroundings)
    scanner      concentrations → light (Beer–Lambert) → optics → sensor → 8-bit pixels
    generator    all of it, for cells of patients at a site
"""
