"""The parts of an HTML report: what each section says, its drawings, and the page around them."""
