import torch


class Steps:
    def told(self, cache, text, held):
        # The caller counts: positions go on from what is held.
        new = text[:, held:]
        return cache(new, held + torch.arange(new.shape[1]))

    def appends(self, model, text, held):
        # It appends all that it is given: the new tokens only.
        return model(text[:, held:])

    def slices(self, model, text, held):
        # It slices by itself, and counts positions on the whole text.
        return model(text)
