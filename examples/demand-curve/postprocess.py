import numpy
import pandas

import json

# nobody buys less than nothing, or half a piece
def actual_postprocess(pdata):
    pd = pdata.copy()
    # the model gives a list of one number for each row
    pd['quantity'] = [row[0] for row in pd.expected_quantity]
    pd.quantity = numpy.maximum(numpy.round(pd.quantity), 0).astype('int64')
    return pd.loc[:, ['quantity']]

# gets what the step before it gives: {"colnames": ["expected_quantity"], "query": [[[22.4]], ...]}
def wallaroo_json(data):
    obj = json.loads(data)
    pdata = pandas.DataFrame(obj['query'],
                             columns=obj['colnames'])
    pprocessed = actual_postprocess(pdata)

    return {
       'tensor_fields': ['quantity'],
       'quantity': pprocessed.quantity.tolist()
    }
